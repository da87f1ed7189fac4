-- The options of a balancer, declared once. Times are in seconds.
-- { name, type, default }
return {
  { "policy", "policy", "round_robin" },
  { "zone", "text" },
  { "zone_meta", "text", "zone" },
  { "max_failures", "nodes", 3 },
  { "ejection_s", "seconds", 10 },
  { "max_ejected", "share", 0.5 },
  { "slow_start_s", "duration", 0 },
  { "load_factor", "factor", 1.25 },
  { "report_within_s", "seconds", 60 },
  { "now", "callback" },
  { "random", "callback" },
}
