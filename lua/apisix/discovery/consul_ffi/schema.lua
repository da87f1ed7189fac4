-- The options of `discovery.consul_ffi` in APISIX's config.yaml, which APISIX checks; docs/apisix.md explains each.
local MILLISECONDS = { type = "integer", minimum = 1 }

return {
  type = "object",
  properties = {
    servers = {
      type = "array",
      minItems = 1,
      items = { type = "string", pattern = [[^(http|https|unix|https\+unix)://]] },
    },
    token = { type = "string" },
    timeout = {
      type = "object",
      properties = { connect = MILLISECONDS, read = MILLISECONDS },
      additionalProperties = false,
    },
    weight = { type = "integer", minimum = 1 },
    skip_services = { type = "array", minItems = 1, items = { type = "string", minLength = 1 } },
    default_service = {
      type = "object",
      properties = {
        host = { type = "string", minLength = 1 },
        port = { type = "integer", minimum = 1, maximum = 65535 },
      },
      required = { "host", "port" },
      additionalProperties = false,
    },
    dump = {
      type = "object",
      properties = { path = { type = "string", minLength = 1 } },
      required = { "path" },
      additionalProperties = false,
    },
    shared_dict = { type = "string", minLength = 1 },
    client = { type = "object" },
  },
  required = { "servers" },
  additionalProperties = false,
}
