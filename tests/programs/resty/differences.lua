-- The calls of calls.lua that return something else from resty.consul than from lua-resty-consul, by name, each with
-- the reason.
-- docs/migrating-from-lua-resty-consul.md says the same to users.
local METHODS = { "get", "delete", "get_key", "delete_key", "list_keys", "put" }

local found = {}

-- `reason` holds for these calls.
local function because(reason, names)
  for _, name in ipairs(names) do
    assert(not found[name], name .. " is there twice")
    found[name] = reason
  end
end

-- The names that end with each of these.
local function each(name, endings)
  local names = {}
  for i, ending in ipairs(endings) do
    names[i] = name .. ending
  end
  return names
end

-- For a field that is set at `new` and for a field that is set later.
local function both(name)
  return each(name, { ", at new", ", after new" })
end

local RAISES = "an argument of a wrong type is nil and a message; there it raises an error"
because(RAISES, each("wait: it is ", { "10s", "a table", "an empty text", "true", "x" }))
because(RAISES, each("argument: ", { "a function", "a nested list", "null" }))
because(RAISES, each("arguments: ", { "a list", "a number as a name", "true as a name" }))
for _, args in ipairs({ "a function", "a number", "a text", "true" }) do
  because(RAISES, each("arguments: " .. args .. ", ", METHODS))
end
because(RAISES, each("default_args: ", { "a list", "a number", "a text", "true" }))
because(RAISES, each("body: ", { "a sparse table", "a table with a function", "a thread", "null" }))
because(RAISES, both("read_timeout = -1"))
because(RAISES, both("connect_timeout = -1"))
because(RAISES, both("host is a table"))
because(RAISES, both("host is true"))
because("a call in a phase without cosockets is nil and a message; there it raises an error",
  each("in the phase ", { "set", "header_filter", "body_filter", "log" }))
because("it raises an error there for what it has not thought of; here it succeeds", {
  "txn: services in the results", "txn: the payload is a list of numbers", "answer: entry-number, get_key",
  "default_args: nil after new",
})
because("a longer timeout than 2^31 - 1 ms is taken; there it raises an error", both("read_timeout = 1e12"))
because("a longer timeout than 2^31 - 1 ms is taken; there it raises an error", both("connect_timeout = 1e12"))

because("a token is a text, a number or a boolean; there a function's address is sent",
  each("token: a function, ", { "get", "delete", "put", "as a default argument" }))
because("a token is a text, a number or a boolean; there a list is sent as several headers",
  each("token: a list of one, ", { "get", "delete", "put", "as a default argument" }))
because("a token with a line end is refused; there it ends the header",
  each("token: a text with a line end, ", { "get", "delete", "put", "as a default argument" }))

because("numbers are sent exactly; there with 14 digits",
  each("argument: ", { "123456789012345", "1e15", "1e300", "2^53", "a third" }))
because("numbers are sent exactly; there with 14 digits", { "body: a large number", "body: a third" })
because("a number that is not finite is refused; there it is sent as nan or inf",
  { "argument: NaN", "argument: infinity", "body: NaN", "body: infinity" })
because("tables of the caller stay as they are; there the first call changes them",
  { "the same arguments twice", "the same transaction twice" })
because("a wait that is not positive does not wait; Consul would wait for 5 minutes", { "wait: it is 0",
  "wait: it is -1" })
because("arguments go on with the query of a path; there a second ? makes them a part of its value",
  { "GET with a query in the path and arguments" })

because("what a request line cannot have is escaped; there Consul refuses it", {
  "kv: the byte 20, put with cas", "kv: the byte 20, get", "kv: the byte 20, which keys there are",
  [[kv: the key a\x20b/c\x20d]], [[path: /a\x20b]], [[path: /a\x0d\x0aX:\x20y]], [[path: /a\x7fb]], [[path: /a?b\x20c]],
})
for _, key in ipairs({ "./a", "a/./b", "a/../b", "../b", "a/..", "a/." }) do
  because("a key with a part . or .. is refused; there the response is Consul's redirect to another key",
    each("kv: the key " .. key, { ", put", ", get" }))
end

because("an answer about a key that is not Consul's is nil and a message",
  each("answer: ", { "json-empty, get_key", "json-null, get_key", "chunked, get_key", "chunked-empty, get_key",
    "204, get_key" }))
because("an answer about a key that is not Consul's is nil and a message", {
  "answer: 301, get_key", "answer: 304, get_key", "answer: of a transaction, no Results",
})
because("a header that goes on in a second line is not HTTP's any more; there it ends the headers",
  each("answer: ", { "folded, get", "folded, get_key", "folded-chunked, get", "folded-chunked, get_key" }))
because("the names of headers are found with _ too", { "answer: headers of any case" })
because("the values of a repeated header are one text", { "answer: a header that is there twice" })
because("a response has a status, headers and a body alone", { "answer: what a response has", "answer: its reason" })

because("a body can be a function; there it fails, because it has no length", {
  "body: a function", "the body of a client's request: put", "the body of a client's request: put-sized",
})
because("nginx reads the body, so that it can be chunked", { "the body of a client's request: chunked" })

because("a socket needs no port = 0", { "a socket without a port, at new" })
because("the Host on a socket is localhost; there consul.rocks", both("a socket, its Host"))
because("an address of IPv6 needs no brackets", both("host is an address of IPv6 without brackets"))
because("the system finds the address of a host's name; there nginx's resolver", both("host is 'localhost'"))
because("the system finds the address of a host's name; there nginx's resolver", both("host is '127.1'"))
because("a certificate must be for sni_host, or for host without it; there any name is right without sni_host",
  both("TLS, no name"))
because("new raises an error for an option that neither knows; there it is ignored", { "new: an unknown option" })
---@param agent string its name in compare.sh
---@return table<string, string> reasons by the name of the call
return function(agent)
  if agent:find("^1.21") then
    for byte in ("00 01 07 09 0a 0d 1b 1f 7f"):gmatch("%x+") do
      because("Consul refuses the byte in a key, by another text than in a request line",
        each("kv: the byte " .. byte .. ", ", { "put with cas", "get" }))
    end
  end
  if agent:find("deny") then
    -- Without a token none of these calls does anything that differs.
    found["kv: the byte 20, which keys there are"], found["txn: services in the results"] = nil, nil
  end
  return found
end
