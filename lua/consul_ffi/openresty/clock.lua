-- A clock in seconds that all processes of the machine share and that is never set back. An older lua-resty-core has no
-- `monotonic_time`; then it is nginx's, which can be set back.
local has_time, time = pcall(require, "resty.core.time")

return has_time and time.monotonic_time or ngx.now
