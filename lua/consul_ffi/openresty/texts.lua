-- Texts by name in a shared dict of nginx. Each is written whole or not at all: when the dict is full, the last one
-- stays. `safe_set` of the dict would remove that before it finds no room for the next one. So each version has a key
-- of its own, and a number, which is replaced in place, says which one is current.
local texts = {}

-- The keys: the current version of a name, a version's text, and the last version that was given out.
local CURRENT, TEXT, LAST = "v:", "t:", "versions"

-- What nginx needs for an entry besides key and value, and the size of its pages, in bytes.
local NODE, PAGE = 80, 4096

-- How often a reader looks again when a version is replaced while it reads.
local LOOKS = 10

-- The version of a name, which changes with its text; nil if there is none.
function texts.version(dict, name)
  return dict:get(CURRENT .. name)
end

-- Returns the text of a name and its version.
function texts.read(dict, name)
  for _ = 1, LOOKS do
    local version = dict:get(CURRENT .. name)
    local text = version and dict:get(TEXT .. version)
    if text or not version then
      return text, version
    end
  end
end

-- Puts a text into the dict as a version that no name has yet; returns nil if there is no room.
local function new_version(dict, text)
  dict:safe_add(LAST, 0)
  local version = dict:incr(LAST, 1)
  return version and dict:safe_set(TEXT .. version, text) and version
end

-- Writes a text if it is another one. Returns its version, or false if there is no room.
function texts.write(dict, name, text)
  local before = dict:get(CURRENT .. name)
  if before and dict:get(TEXT .. before) == text then
    return before
  end
  local version = new_version(dict, text)
  if not version then
    return false
  elseif not dict:safe_set(CURRENT .. name, version) then
    dict:delete(TEXT .. version)
    return false
  end
  if before then
    dict:delete(TEXT .. before)
  end
  return version
end

-- Writes a text if the name has none, also while other workers write. Returns false if there is no room.
function texts.add(dict, name, text)
  if dict:get(CURRENT .. name) then
    return true
  end
  local version = new_version(dict, text)
  if not version then
    return false
  end
  local is_added, why = dict:safe_add(CURRENT .. name, version)
  if not is_added then
    dict:delete(TEXT .. version)
  end
  return is_added or why == "exists"
end

function texts.remove(dict, name)
  local version = dict:get(CURRENT .. name)
  if version then
    dict:delete(CURRENT .. name)
    dict:delete(TEXT .. version)
  end
end

-- Removes the texts of other names than these, and the versions that no name has: a worker was killed while it wrote.
-- A text that another worker writes meanwhile may be lost: its version then has none.
function texts.sweep(dict, is_name)
  local keys, is_current = dict:get_keys(0), {}
  for _, key in ipairs(keys) do
    if key:sub(1, #CURRENT) == CURRENT then
      if is_name[key:sub(#CURRENT + 1)] then
        is_current[TEXT .. (dict:get(key) or "")] = true
      else
        dict:delete(key)
      end
    end
  end
  for _, key in ipairs(keys) do
    if key:sub(1, #TEXT) == TEXT and not is_current[key] then
      dict:delete(key)
    end
  end
end

-- The memory of a name with a text of this length, in bytes: nginx allocates powers of two, above half a page whole
-- pages.
function texts.size_of(name, length)
  local function entry(bytes)
    return bytes > PAGE / 2 and math.ceil(bytes / PAGE) * PAGE or 2 ^ math.ceil(math.log(bytes) / math.log(2))
  end
  return entry(NODE + length + 16) + entry(NODE + #name + 8)
end

return texts
