-- A log file that is rotated by size, with the time in UTC at the beginning of each line; without a file, the log of
-- the process. Only one process may write a file.
local consul_ffi = require("consul_native")

local log = {}
log.__index = log

local LEVELS = { DEBUG = 1, INFO = 2, WARN = 3, ERROR = 4, OFF = 5 }
local DAY_S = 24 * 60 * 60

-- The first bytes of a line: 2026-11-20T22:30:00Z
local STAMP_LENGTH = 20
-- The longest line in bytes, which a pipe takes as a whole or not at all.
local MAX_LINE = 4096
-- Room for the number of lines that a pipe did not take, which the next line ends with.
local COUNT_LENGTH = 32

-- Opens a log; nil and a message when the file cannot be opened. `max_bytes`, `max_backups` and
-- `max_age_days` are its limits. `now()` returns Unix time.
function log.open(given)
  local self = setmetatable({ level = LEVELS[given.level or "INFO"], now = given.now or os.time }, log)
  if given.path then
    local why
    self.file, why = consul_ffi.log_file(given.path, {
      max_bytes = given.max_bytes,
      max_backups = given.max_backups,
      max_age_s = given.max_age_days and given.max_age_days * DAY_S,
    })
    if not self.file then
      return nil, why
    end
  end
  return self
end

-- Writes a line with its time to the file, to the standard error if that is not possible. A line that a pipe does not
-- take is counted.
function log:line(text)
  text = text:gsub("%c", " ")
  text = text:sub(1, MAX_LINE - COUNT_LENGTH - STAMP_LENGTH - 2)
  local line = os.date("!%Y-%m-%dT%H:%M:%SZ", self.now()) .. " " .. text .. "\n"
  if not (self.file and self.file:write(line)) then
    io.stderr:write(line)
  end
end

-- Writes a message if its level is at least the log's level.
function log:write(level, message)
  if LEVELS[level] < self.level then
    return
  end
  if self.file then
    self:line(("%-5s %s"):format(level, message))
  else
    consul_ffi._internal.log(level, (message:gsub("%c", " ")))
  end
end

function log:close()
  if self.file then
    self.file:close()
    self.file = nil
  end
end

return log
