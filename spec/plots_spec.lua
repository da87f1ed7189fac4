-- The plots in docs/benchmarks.md are drawn from its tables.
local support = require("spec.support")

it("the plots of the benchmarks are drawn from the tables of their page", function()
  local check = assert(io.popen(support.interpreter .. " benches/plots.lua --check 2>&1 || echo FAILED"))
  local said = check:read("*a")
  check:close()
  assert.equal("", said)
end)
