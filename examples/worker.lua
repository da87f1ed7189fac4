-- A worker that runs its job only while it holds a lock, and keeps its TTL check passing.
local Worker = {}
Worker.__index = Worker

function Worker.new(client, name)
  local worker = setmetatable({ client = client, name = name, jobs = 0 }, Worker)
  assert(client:agent_service_register({ name = name, check = { ttl = "10s", status = "passing" } }))
  return worker
end

-- One iteration of its loop; returns "leading", "waiting" or the kind of the error.
function Worker:turn()
  local client = self.client
  local alive, _, trouble = client:agent_check_pass("service:" .. self.name)
  if not alive then
    return trouble.kind
  end
  if self.session and not client:session_renew(self.session) then
    self.session = nil
  end
  if not self.session then
    local created, session, err = client:session_create({ name = self.name, ttl = "10s", lock_delay = "5s" })
    if not created then
      return err.kind
    end
    self.session = session
  end
  local leads, _, err = client:kv_put("worker/leader", self.name, { acquire = self.session })
  if leads then
    self.jobs = self.jobs + 1
    return "leading"
  end
  return err.kind == "conflict" and "waiting" or err.kind
end

return Worker
