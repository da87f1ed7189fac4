-- Draws the plots of docs/benchmarks.md from the tables of that page: docs/images/bench-*.svg.
--
--   luajit benches/plots.lua [--check]
--
-- With --check it writes nothing, and fails if a plot is not that of its table.
local PAGE = "docs/benchmarks.md"

-- `head` is the table's first line, `nth` chooses among tables with the same; `columns` is how many are drawn, all by
-- default.
local PLOTS = {
  {
    file = "bench-clients", title = "Time of a call on Consul 1.21 (median)", unit = "µs", nth = 2,
    head = "| | raw socket | consul_ffi | libcurl by FFI | Go api | LuaSocket |",
  },
  {
    file = "bench-many", title = "10,000 reads at once: time for each", unit = "µs", columns = 2,
    head = "| 10,000 reads, time for each | consul_ffi | Go api | ratio |",
  },
  {
    file = "bench-rate", title = "10,000 reads a second: from due to answered", unit = "ms", columns = 2,
    head = "| 10,000 reads a second, in ms | p50 | p99 | p99.9 | longest |",
  },
  {
    file = "bench-ring", title = "Hash ring: a lookup by a key's hash", unit = "ns", columns = 2,
    head = "| nodes | by a key's hash: ring | binary search | ratio (at most 0.5) | by a key: ring | `hashring` |",
  },
}

local COLOURS = { "#5b6b8c", "#c2185b", "#8aa1b1", "#4f9d8f", "#d9a441" }
local WIDTH, LEFT, RIGHT, BAR, GAP, TOP = 760, 150, 110, 16, 18, 64

local unpack = rawget(_G, "unpack") or table.unpack

local function read(path)
  local file = io.open(path, "rb")
  if not file then
    return nil
  end
  local text = file:read("*a")
  file:close()
  return text
end

local function cells(line)
  local found = {}
  for cell in line:gmatch("|([^|]*)") do
    found[#found + 1] = cell:match("^%s*(.-)%s*$"):gsub("`", "")
  end
  found[#found] = nil
  return found
end

-- The rows of a plot's table: { name, values }; and the names of its columns.
local function table_of(plot, page)
  local at, seen = 1, 0
  repeat
    local first, last = page:find(plot.head, at, true)
    assert(first, PAGE .. " has no table " .. plot.head)
    at, seen = last + 1, seen + 1
  until seen == (plot.nth or 1)
  local names, rows = cells(plot.head), {}
  for line in page:sub(at):match("^\n|[-|]+\n(.-)\n\n"):gmatch("[^\n]+") do
    local row = cells(line)
    local values = {}
    for i = 2, (plot.columns or #names - 1) + 1 do
      values[#values + 1] = assert(tonumber((row[i]:gsub(",", ""):match("^[%d.]+"))), line)
    end
    rows[#rows + 1] = { name = row[1], values = values }
  end
  table.remove(names, 1)
  return rows, names
end

local function escaped(text)
  return (text:gsub("&", "&amp;"):gsub("<", "&lt;"))
end

-- A plot of horizontal bars, as SVG: a group for each row, a bar for each column.
local function drawn(plot, page)
  local rows, names = table_of(plot, page)
  local most, columns = 0, #rows[1].values
  for _, row in ipairs(rows) do
    most = math.max(most, unpack(row.values))
  end
  local lines, y = {}, TOP
  local function add(form, ...)
    lines[#lines + 1] = form:format(...)
  end
  local height = TOP + #rows * (columns * BAR + GAP)
  add('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12" role="img">',
    WIDTH, height)
  add("<title>%s</title>", escaped(plot.title))
  add('<rect width="%d" height="%d" fill="#ffffff"/>', WIDTH, height)
  add('<text x="12" y="22" font-size="15" font-weight="bold" fill="#222222">%s, %s</text>', escaped(plot.title),
    plot.unit)
  local x = 12
  for i = 1, columns do
    add('<rect x="%d" y="36" width="12" height="12" fill="%s"/>', x, COLOURS[i])
    add('<text x="%d" y="46" fill="#222222">%s</text>', x + 18, escaped(names[i]))
    x = x + 34 + 7 * #names[i]
  end
  for _, row in ipairs(rows) do
    add('<text x="%d" y="%d" text-anchor="end" fill="#222222">%s</text>', LEFT - 10, y + columns * BAR / 2 + 4,
      escaped(row.name))
    for i, value in ipairs(row.values) do
      local length = (WIDTH - LEFT - RIGHT) * value / most
      add('<rect x="%d" y="%d" width="%.1f" height="%d" fill="%s"/>', LEFT, y, length, BAR - 3, COLOURS[i])
      add('<text x="%.1f" y="%d" font-size="11" fill="#222222">%s</text>', LEFT + length + 6, y + BAR - 5,
        ("%.3f"):format(value):gsub("%.?0+$", ""))
      y = y + BAR
    end
    y = y + GAP
  end
  return table.concat(lines, "\n") .. "\n</svg>\n"
end

local check, failed = arg[1] == "--check", false
local page = assert(read(PAGE), PAGE .. " is missing")
for _, plot in ipairs(PLOTS) do
  local path, wanted = ("docs/images/%s.svg"):format(plot.file), drawn(plot, page)
  if check then
    if read(path) ~= wanted then
      io.stderr:write(path, " is not the plot of its table: run luajit benches/plots.lua\n")
      failed = true
    end
  else
    local file = assert(io.open(path, "wb"))
    file:write(wanted)
    file:close()
  end
end
os.exit(failed and 1 or 0)
