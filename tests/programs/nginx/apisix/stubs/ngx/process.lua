-- APISIX watches Consul in nginx's privileged agent, which only a patched nginx has. Here its one worker is that.
return {
  type = function()
    return "privileged agent"
  end,
}
