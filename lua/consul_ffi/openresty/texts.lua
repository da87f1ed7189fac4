-- Texts by name in a shared dict of nginx. Each is written whole or not at all: when the dict is full, the last one
-- stays. `safe_set` of the dict would remove that before it finds no room for the next one. So each version has a key
-- of its own, and a number, which is replaced in place, says which one is current. A long text is in parts of a page of
-- nginx, since it could not use pages that are free but not side by side for a whole one.
local texts = {}

-- The keys: the current version of a name, a version's text, and the last version that was given out. The first part
-- of a text is at the version, others at the version, a dot and their number.
local CURRENT, TEXT, LAST = "v:", "t:", "versions"

-- The bytes that nginx needs for an entry besides key and value, the length of a key here, and the size of its pages.
local NODE, KEY, PAGE = 80, 16, 4096

-- The length of all parts of a text but the last one, which is shorter.
local PART = PAGE - NODE - KEY

-- How often a reader looks again when a version is replaced while it reads.
local LOOKS = 10

-- The version of a name, which changes with its text; nil if there is none.
function texts.version(dict, name)
  return dict:get(CURRENT .. name)
end

-- The same, or nil if its text is not there either. `sweep` removes a whole text, or its first part with others.
function texts.version_of_text(dict, name)
  local version = dict:get(CURRENT .. name)
  return version and dict:get(TEXT .. version) and version
end

local function key_of(version, part)
  return part == 1 and TEXT .. version or ("%s%s.%d"):format(TEXT, version, part)
end

-- The text of a version; nil if a part of it is not there.
local function text_of(dict, version)
  local first = dict:get(TEXT .. version)
  if not first or #first < PART then
    return first
  end
  local parts = { first }
  repeat
    local part = dict:get(key_of(version, #parts + 1))
    parts[#parts + 1] = part
  until not part or #part < PART
  return #parts[#parts] < PART and table.concat(parts) or nil
end

-- Removes a version. Parts of an incomplete version may stay, until `sweep`.
local function remove_version(dict, version)
  local number = 1
  repeat
    local key = key_of(version, number)
    local part = dict:get(key)
    dict:delete(key)
    number = number + 1
  until not part or #part < PART
end

-- Returns the text of a name and its version.
function texts.read(dict, name)
  for _ = 1, LOOKS do
    local version = dict:get(CURRENT .. name)
    local text = version and text_of(dict, version)
    if text or not version then
      return text, version
    end
  end
end

-- Puts a text into the dict as a version that no name has yet; returns nil if there is no room.
local function new_version(dict, text)
  dict:safe_add(LAST, 0)
  local version = dict:incr(LAST, 1)
  if not version then
    return nil
  end
  for number = 1, math.floor(#text / PART) + 1 do
    if not dict:safe_set(key_of(version, number), text:sub((number - 1) * PART + 1, number * PART)) then
      remove_version(dict, version)
      return nil
    end
  end
  return version
end

-- Writes a text if it is another one. Returns its version; false if there is no room, nil if another worker wrote one
-- meanwhile.
function texts.write(dict, name, text)
  local before = dict:get(CURRENT .. name)
  if before and text_of(dict, before) == text then
    return before
  end
  local version = new_version(dict, text)
  if not version then
    return false
  elseif dict:get(CURRENT .. name) ~= before then
    -- This one may be older: its worker was paused.
    remove_version(dict, version)
    return nil
  elseif not dict:safe_set(CURRENT .. name, version) then
    remove_version(dict, version)
    return false
  end
  if before then
    remove_version(dict, before)
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
    remove_version(dict, version)
  end
  return is_added or why == "exists"
end

function texts.remove(dict, name)
  local version = dict:get(CURRENT .. name)
  if version then
    dict:delete(CURRENT .. name)
    remove_version(dict, version)
  end
end

-- Removes the texts of other names than these, and the versions that no name has: a worker was killed while it wrote.
-- A text that another worker writes meanwhile may be lost: its version then has none. `goes_on()` is called for each
-- key; it may wait, and ends this when it returns false.
function texts.sweep(dict, is_name, goes_on)
  local keys, is_current = dict:get_keys(0), {}
  for _, key in ipairs(keys) do
    if not goes_on() then
      return
    elseif key:sub(1, #CURRENT) == CURRENT then
      if is_name[key:sub(#CURRENT + 1)] then
        is_current[tostring(dict:get(key))] = true
      else
        dict:delete(key)
      end
    end
  end
  for _, key in ipairs(keys) do
    if not goes_on() then
      return
    elseif key:sub(1, #TEXT) == TEXT and not is_current[key:match("^[^.]*", #TEXT + 1)] then
      dict:delete(key)
    end
  end
end

-- The memory of an entry with a key and a value of these lengths, in bytes: nginx allocates powers of two, above half a
-- page whole pages.
function texts.size_of_entry(key, value)
  local bytes = NODE + key + value
  return bytes > PAGE / 2 and math.ceil(bytes / PAGE) * PAGE or 2 ^ math.ceil(math.log(bytes) / math.log(2))
end

-- The memory of a name with a text of this length, in bytes.
function texts.size_of(name, length)
  local parts = math.floor(length / PART)
  return parts * PAGE + texts.size_of_entry(KEY, length - parts * PART) + texts.size_of_entry(#name, 8)
end

return texts
