-- A log file that is put aside when it is large: `file`, `file.1` (the newest put aside) to `file.N`.
-- Each line begins with its time in UTC, by which old files are told. One process writes a file.
local log = {}
log.__index = log

local LEVELS = { DEBUG = 1, INFO = 2, WARN = 3, ERROR = 4 }
local DAY_S = 24 * 60 * 60

-- The first bytes of a line: 2026-11-20T22:30:00Z
local STAMP_LENGTH = 20
-- A line is no longer, so that the last one of a file is found.
local MAX_LINE = 4096

-- Opens a log; nil and why when that is not possible. `max_bytes`, `max_backups` and `max_age_days` are
-- its bounds; without a path it is standard error. `now` gives Unix time.
function log.open(given)
  local self = setmetatable({ level = LEVELS[given.level or "INFO"], now = given.now or os.time }, log)
  self.path, self.max_bytes = given.path, given.max_bytes
  self.max_backups, self.max_age_days = given.max_backups, given.max_age_days
  if self.path then
    local opened, why = self:_open()
    if not opened then
      return nil, why
    end
    self:_forget()
  end
  return self
end

function log:_open()
  local why
  self.file, why = io.open(self.path, "a")
  if not self.file then
    return nil, why
  end
  self.file:setvbuf("line")
  self.size = self.file:seek("end")
  return true
end

function log:_backup(number)
  return ("%s.%d"):format(self.path, number)
end

-- The time of a file's last line, as text that sorts by time; nil when there is none.
local function last_stamp(path)
  local file = io.open(path, "rb")
  if not file then
    return nil
  end
  local size = file:seek("end")
  file:seek("set", math.max(0, size - MAX_LINE))
  local stamp
  for line in (file:read("*a") or ""):gmatch("[^\n]+") do
    stamp = line:match("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%dZ") or stamp
  end
  file:close()
  return stamp
end

local function exists(path)
  local file = io.open(path, "rb")
  return file and file:close() and true or false
end

-- Removes what is older or more than it should be.
function log:_forget()
  local oldest = os.date("!%Y-%m-%dT%H:%M:%SZ", math.floor(self.now() - self.max_age_days * DAY_S))
  local number = 1
  while exists(self:_backup(number)) do
    local stamp = last_stamp(self:_backup(number))
    if number > self.max_backups or stamp and stamp < oldest then
      os.remove(self:_backup(number))
    end
    number = number + 1
  end
end

function log:_put_aside()
  self.file:close()
  local last = 1
  while last <= self.max_backups and exists(self:_backup(last)) do
    last = last + 1
  end
  for number = last, 2, -1 do
    os.rename(self:_backup(number - 1), self:_backup(number))
  end
  os.rename(self.path, self:_backup(1))
  self:_forget()
  return self:_open()
end

-- Writes a line with its time. What cannot be written goes to standard error.
function log:line(text)
  text = text:gsub("%c", " ")
  text = text:sub(1, MAX_LINE - STAMP_LENGTH - 2)
  local line = os.date("!%Y-%m-%dT%H:%M:%SZ", self.now()) .. " " .. text .. "\n"
  if self.file and self.size > 0 and self.size + #line > self.max_bytes then
    self:_put_aside()
  end
  if self.file and self.file:write(line) then
    self.size = self.size + #line
  else
    io.stderr:write(line)
  end
end

-- Writes a message when its level is asked for.
function log:write(level, message)
  if LEVELS[level] >= self.level then
    self:line(("%-5s %s"):format(level, message))
  end
end

function log:close()
  if self.file then
    self.file:close()
    self.file = nil
  end
end

return log
