-- The file with the last lists, from which an nginx starts while Consul is unreachable: a JSON object with the scope of
-- the lists and, of each service, when Consul confirmed its list, by the machine's clock, and its instances.
local consul_ffi = require("consul_ffi")
local scope = require("consul_ffi.openresty.scope")

-- The bits of a file's mode that nobody but its user gets.
local PRIVATE = tonumber("077", 8)

local MAX_PORT = 65535

-- How far a time in a file may be to come while ages are limited, in seconds: a clock may be set back a little.
local AHEAD_S = 1

local dump = {}

-- Why a path is none of a regular file; nil for a file, or if there is nothing yet. A pipe blocks its reader.
function dump.not_regular(path)
  local _, why = consul_ffi.read_file(path)
  return why and why:match("it is not a regular file.*")
end

local function is_integer_up_to(value, greatest)
  return type(value) == "number" and value >= 0 and value <= greatest and value % 1 == 0
end

-- Whether a balancer can use a value of a file, which another version may have written.
local function is_instance(value)
  if type(value) ~= "table" or type(value.address) ~= "string" or value.address == "" then
    return false
  end
  for _, name in ipairs({ "id", "node" }) do
    if value[name] ~= nil and type(value[name]) ~= "string" then
      return false
    end
  end
  local weight, meta = value.weight, value.meta
  local is_weight = weight == nil or type(weight) == "number" and weight >= 0 and weight < math.huge
  return is_integer_up_to(value.port, MAX_PORT) and is_weight and (meta == nil or type(meta) == "table")
end

-- Whether a value is a list; an empty one has been written as an object.
local function is_list(value)
  for key in pairs(type(value) == "table" and value or {}) do
    if not is_integer_up_to(key, #value) then
      return false
    end
  end
  return type(value) == "table"
end

-- Returns the services of a file, or nil and the reason. With a limit of ages each list has to have one.
function dump.read(path, wanted, age_max_s)
  local file, why = io.open(path, "r")
  if not file then
    return nil, why
  end
  local text
  text, why = file:read("*a")
  file:close()
  if not text then
    return nil, why
  end
  local decoded, content = consul_ffi.json_decode(text)
  if not decoded then
    return nil, content
  end
  local services = type(content) == "table" and content.services
  if type(services) ~= "table" then
    return nil, "it has no services"
  end
  local of = content.of or ""
  if of ~= wanted then
    return nil, ("its lists are of %s, not of %s"):format(scope.words(of), scope.words(wanted))
  end
  for name, service in pairs(services) do
    local instances = type(service) == "table" and type(service.confirmed) == "number" and service.instances
    if type(name) ~= "string" or not is_list(instances) then
      return nil, ("its service %s is not one"):format(tostring(name))
    elseif age_max_s and service.confirmed > ngx.now() + AHEAD_S then
      return nil, ("the list of its service %s is of a time to come, so that its age is not known"):format(name)
    end
    for _, instance in pairs(instances) do
      if not is_instance(instance) then
        return nil, ("an instance of its service %s is not one"):format(name)
      end
    end
  end
  return services
end

-- Opens a new file that only its user can read and write. nginx has the umask 0, which would let everybody choose where
-- the next one sends its requests. Other engines, which have no ffi, are not in nginx.
local function open_private(path)
  local has_ffi, ffi = pcall(require, "ffi")
  if not has_ffi then
    return io.open(path, "w")
  end
  ffi.cdef("unsigned int umask(unsigned int);")
  local before = ffi.C.umask(PRIVATE)
  local file, why = io.open(path, "w")
  ffi.C.umask(before)
  return file, why
end

-- Writes a new file at a path with the lists of a scope. `next_list()` returns a service's name as JSON, when Consul
-- confirmed its list, and that list as JSON, until there are no more; it may wait. Returns true, or nil and the reason.
function dump.write(path, of, next_list)
  local file, why = open_private(path)
  if not file then
    return nil, why
  end
  local head = ('{"of":%s,"services":{'):format(select(2, assert(consul_ffi.json_encode(of))))
  local written, failure = file:write(head)
  local separator, name, confirmed, instances = "", next_list()
  while written and name do
    local before = ('%s%s:{"confirmed":%.3f,"instances":'):format(separator, name, confirmed)
    written, failure = file:write(before, instances, "}")
    separator, name, confirmed, instances = ",", next_list()
  end
  if written then
    written, failure = file:write("}}\n")
  end
  local closed, closing = file:close()
  return written and closed, failure or closing
end

return dump
