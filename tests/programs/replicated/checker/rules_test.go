package main

import (
	"fmt"
	"math/rand"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"
)

const ms, second = int64(1000), int64(1000_000)

// A maker makes histories: each call adds an operation of a record, with a value of its own if it is a write.
type maker struct {
	lines []timed
	id    string
}

type timed struct {
	start int64
	text  string
}

func (m *maker) add(op, value, result string, start, end int64) {
	quoted, ending := "null", fmt.Sprint(end)
	if value != "" {
		quoted = fmt.Sprintf("%q", value)
	}
	if result == "unknown" {
		ending = "null"
	}
	m.lines = append(m.lines, timed{start, fmt.Sprintf(
		`{"client":%d,"op":%q,"key":"k","id":%q,"value":%s,"start_us":%d,"end_us":%s,"result":%q}`,
		len(m.lines)%7, op, m.id, quoted, start, ending, result)})
}

// Times in milliseconds, as they are easier to read.
func (m *maker) write(value string, start, end int64) { m.add("write", value, "ok", start*ms, end*ms) }
func (m *maker) failed(value string, start, end int64) {
	m.add("write", value, "failed", start*ms, end*ms)
}
func (m *maker) unknown(value string, start int64) { m.add("write", value, "unknown", start*ms, 0) }
func (m *maker) refused(value string, start, end int64) {
	m.add("write", value, "refused", start*ms, end*ms)
}
func (m *maker) remove(start, end int64)             { m.add("delete", "", "ok", start*ms, end*ms) }
func (m *maker) read(value string, start, end int64) { m.add("read", value, "ok", start*ms, end*ms) }

func (m *maker) text() string {
	sort.SliceStable(m.lines, func(i, j int) bool { return m.lines[i].start < m.lines[j].start })
	var all strings.Builder
	for _, one := range m.lines {
		all.WriteString(one.text + "\n")
	}
	return all.String()
}

// A replica's or a failed write's place in a model of the store: the newest version wins.
type version struct {
	value string
	rank  int64
}

// run adds a history of several records as a store makes it that keeps its promise: versions by clocks that differ, each
// operation at one moment within its time, and failed writes that come late or never.
func (m *maker) run(random *rand.Rand, records int) {
	for i := 0; i < records; i++ {
		m.id = fmt.Sprintf("good/%d", i)
		var newest version
		var late []version
		var tick, free int64
		latest := make([]int64, 6) // when each client is free
		for n := 0; n < 150; n++ {
			client := random.Intn(len(latest))
			free = max(free+1, latest[client]+1)
			start := free
			moment := start + random.Int63n(20_000)
			if random.Intn(20) == 0 {
				free += 3 * second
			}
			// Moments are in order, so that the state here is that of the store at the moment.
			if moment <= tick {
				moment = tick + 1
			}
			tick = moment
			end := moment + random.Int63n(20_000)
			free = moment
			latest[client] = end
			if len(late) > 0 && random.Intn(3) == 0 {
				if last := late[len(late)-1]; last.rank > newest.rank {
					newest = last
				}
				late = late[:len(late)-1]
			}
			rank := moment + random.Int63n(1900_000)
			value := fmt.Sprintf("%s-%d", m.id, n)
			switch random.Intn(10) {
			case 0, 1, 2:
				newest = version{value, max(rank, newest.rank+1)}
				m.add("write", value, "ok", start, end)
			case 3:
				newest = version{"", max(rank, newest.rank+1)}
				m.add("delete", "", "ok", start, end)
			case 4:
				late = append(late, version{value, rank})
				m.add("write", value, []string{"failed", "unknown"}[random.Intn(2)], start, end)
			case 5:
				m.add("write", value, "refused", start, end)
			default:
				m.add("read", newest.value, "ok", start, end)
			}
		}
	}
}

// A planted history: its operations, on a record among good ones, and what the refusal must name.
type planted struct {
	name string
	make func(m *maker)
	kind string
	// The values, or "nothing", of the operations that must be named.
	named []string
	// The rules without which it passes, or is refused if it is good.
	needs string
}

var bad = []planted{
	{"a lost write", func(m *maker) {
		m.write("a", 0, 10)
		m.write("b", 20, 30)
		m.read("a", 40, 50)
		m.read("a", 60, 70)
	}, "order", []string{"a", "b"}, "order, bound of slow reads"},
	{"a lost write, seen by a slow read", func(m *maker) {
		m.write("a", 0, 10)
		m.failed("c", 11, 12)
		m.write("b", 3000, 3010)
		m.read("c", 4000, 4900)
	}, "slow", []string{"b", "c"}, "bound of slow reads"},
	{"a stale read after a newer one", func(m *maker) {
		m.write("a", 0, 10)
		m.write("b", 20, 900)
		m.read("b", 30, 40)
		m.read("a", 50, 60)
	}, "order", []string{"a", "b"}, "order"},
	{"a deleted record that comes back", func(m *maker) {
		m.write("a", 0, 10)
		m.remove(20, 30)
		m.read("", 40, 50)
		m.read("a", 90_000, 90_010)
	}, "order", []string{"a", "nothing"}, "order, bound of slow reads"},
	{"a value that nobody wrote", func(m *maker) {
		m.write("a", 0, 10)
		m.read("x", 20, 30)
	}, "known", []string{"x"}, "known"},
	{"a refused write that is seen", func(m *maker) {
		m.write("a", 0, 10)
		m.refused("b", 20, 30)
		m.read("a", 40, 50)
		m.read("b", 60, 70)
	}, "refused", []string{"b"}, "refused"},
	{"a write that takes effect twice", func(m *maker) {
		m.write("a", 0, 1000)
		m.read("a", 100, 120)
		m.write("b", 200, 220)
		m.read("b", 230, 240)
		m.read("a", 1100, 1120)
	}, "again", []string{"a", "b"}, "order"},
	{"a deletion that takes effect twice", func(m *maker) {
		m.write("a", 0, 10)
		m.remove(20, 1000)
		m.read("", 100, 120)
		m.write("b", 200, 220)
		m.read("b", 230, 240)
		m.read("", 1100, 1120)
	}, "again", []string{"a", "b", "nothing"}, "order, bound of slow reads"},
	{"an empty slow read after a write that followed a deletion", func(m *maker) {
		m.remove(0, 10)
		m.write("a", 20, 30)
		m.read("", 40, 900)
	}, "slow", []string{"a", "nothing"}, "bound of slow reads"},
	{"a read that was not slow shows what the next one does not", func(m *maker) {
		m.write("a", 0, 10)
		m.failed("b", 20, 30)
		m.read("b", 40, 440)
		m.read("a", 450, 460)
		m.read("b", 470, 480)
	}, "order", []string{"a", "b"}, "order"},
	{"a slow read and the next one show two orders of acknowledged writes", func(m *maker) {
		m.write("a", 0, 1000)
		m.write("b", 0, 900)
		m.read("b", 1010, 1600)
		m.read("a", 1610, 1620)
	}, "order", []string{"a", "b"}, "order"},
	{"a slow read of a value whose write begins later", func(m *maker) {
		m.read("a", 0, 900)
		m.write("a", 1000, 1010)
	}, "slow", []string{"a"}, "bound of slow reads"},
	{"a refused deletion that is seen", func(m *maker) {
		m.write("a", 0, 10)
		m.add("delete", "", "refused", 20*ms, 30*ms)
		m.read("", 40, 50)
	}, "order", []string{"a", "nothing"}, "refused"},
	{"a failed write that wins over one that was hidden", func(m *maker) {
		m.failed("a", 0, 100)
		m.failed("b", 1000, 1100)
		m.read("b", 1200, 1210)
		m.write("c", 2500, 2510)
		m.read("b", 2600, 2610)
		m.read("a", 9000, 9010)
	}, "order", []string{"a", "c"}, "sealed"},
	{"two orders seen by two clients", func(m *maker) {
		m.write("a", 0, 100)
		m.write("b", 0, 100)
		m.read("a", 110, 120)
		m.read("b", 130, 140)
		m.read("a", 150, 160)
	}, "order", []string{"a", "b"}, "order"},
	{"two orders of failed writes", func(m *maker) {
		m.failed("a", 0, 100)
		m.unknown("b", 0)
		m.read("a", 110, 120)
		m.read("b", 130, 140)
		m.read("a", 150, 160)
	}, "order", []string{"a", "b"}, "order"},
	{"a failed write that wins over one much later", func(m *maker) {
		m.failed("a", 0, 100)
		m.write("b", 2200, 2210)
		m.read("b", 2300, 2310)
		m.read("a", 9000, 9010)
	}, "order", []string{"a", "b"}, "sealed"},
	{"a failed deletion that wins over a write much later", func(m *maker) {
		m.add("delete", "", "failed", 0, 100*ms)
		m.write("b", 2200, 2210)
		m.read("", 9000, 9010)
	}, "order", []string{"b", "nothing"}, "sealed"},
	{"an empty complete read after an acknowledged write", func(m *maker) {
		m.write("a", 0, 10)
		m.read("", 20, 30)
	}, "order", []string{"a", "nothing"}, "order, bound of slow reads"},
	{"an empty slow read after an acknowledged write", func(m *maker) {
		m.write("a", 0, 10)
		m.read("", 20, 5000)
	}, "slow", []string{"a", "nothing"}, "bound of slow reads"},
	{"a value that is read before its write begins", func(m *maker) {
		m.read("a", 0, 10)
		m.write("a", 20, 30)
	}, "order", []string{"a"}, "order, bound of slow reads"},
	{"a failed write that comes twice", func(m *maker) {
		m.write("a", 0, 10)
		m.failed("b", 20, 30)
		m.read("b", 40, 50)
		m.write("c", 60, 70)
		m.read("c", 80, 90)
		m.read("b", 100, 110)
	}, "order", []string{"b", "c"}, "order, bound of slow reads"},
	{"a write without an answer that wins over one much later than it was seen", func(m *maker) {
		m.unknown("a", 0)
		m.read("a", 20, 30)
		m.write("b", 2200, 2210)
		m.read("a", 2300, 2310)
	}, "order", []string{"a", "b"}, "order"},
}

// Histories that are as promised, each with the rule without which it is refused, and whether -strict refuses it.
var good = []struct {
	planted
	isStrict bool
}{
	{planted{"a failed write that comes late", func(m *maker) {
		m.write("a", 0, 10)
		m.failed("b", 20, 30)
		m.read("a", 40, 50)
		m.read("b", 60_000, 60_010)
		m.write("c", 61_000, 61_010)
		m.read("c", 61_020, 61_030)
	}, "", nil, "late"}, false},
	{planted{"a failed write that wins over a later one within max_skew_s", func(m *maker) {
		m.failed("a", 0, 100)
		m.write("b", 1900, 1950)
		m.read("b", 2000, 2010)
		m.read("a", 9000, 9010)
	}, "", nil, "late"}, false},
	{planted{"a failed write that was seen hides one within max_skew_s", func(m *maker) {
		m.failed("a", 0, 100)
		m.read("a", 110, 120)
		m.write("b", 1000, 1010)
		m.read("a", 1100, 1110)
		m.write("c", 3000, 3010)
		m.read("c", 3100, 3110)
	}, "", nil, "hidden"}, true},
	{planted{"a slow read shows what the next one does not", func(m *maker) {
		m.write("a", 0, 10)
		m.failed("b", 20, 30)
		m.read("b", 40, 600)
		m.read("a", 610, 620)
		m.read("b", 700, 710)
	}, "", nil, "slow"}, false},
	{planted{"a slow read shows a write that is acknowledged later", func(m *maker) {
		m.write("a", 0, 10)
		m.write("b", 20, 2000)
		m.read("b", 40, 600)
		m.read("a", 610, 620)
		m.read("b", 2010, 2020)
	}, "", nil, "slow"}, false},
	{planted{"a write without an answer comes late, and another one never", func(m *maker) {
		m.write("a", 0, 10)
		m.unknown("b", 20)
		m.unknown("x", 20)
		m.write("c", 5000, 5010)
		m.read("c", 6000, 6010)
		m.read("b", 90_000, 90_010)
	}, "", nil, "late"}, false},
	{planted{"a write that is acknowledged late takes effect before", func(m *maker) {
		m.write("a", 0, 1000)
		m.read("a", 100, 120)
		m.write("b", 200, 220)
		m.read("b", 230, 240)
		m.read("b", 1100, 1120)
	}, "", nil, ""}, false},
	{planted{"reads that fail or are incomplete show anything", func(m *maker) {
		m.write("a", 0, 10)
		m.add("read", "x", "incomplete", 20*ms, 30*ms)
		m.add("read", "", "failed", 20*ms, 30*ms)
		m.add("read", "", "unknown", 20*ms, 0)
		m.read("a", 40, 50)
	}, "", nil, ""}, false},
	{planted{"concurrent writes, and reads during them", func(m *maker) {
		m.write("a", 0, 100)
		m.write("b", 0, 100)
		m.read("", 0, 20)
		m.read("b", 10, 90)
		m.read("a", 110, 120)
		m.remove(130, 140)
		m.read("", 150, 160)
	}, "", nil, ""}, false},
}

func judged(t *testing.T, text string, r rules) (map[string]*verdict, string) {
	t.Helper()
	if r.limit == 0 {
		r.limit = 20 * time.Second
	}
	r.skew = 2 * second
	h, err := parse(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]*verdict{}
	for _, one := range h.records {
		if v := judge(one.ops, r); v != nil {
			found[one.id] = v
		}
	}
	var out strings.Builder
	if n := h.check(r, &out); n != len(found) {
		t.Fatalf("%d records break rules, and %d are counted", len(found), n)
	}
	return found, out.String()
}

func made(one planted, seed int64) string {
	m := &maker{}
	m.run(rand.New(rand.NewSource(seed)), 4)
	m.id = "planted"
	one.make(m)
	return m.text()
}

func TestRefusesBadHistories(t *testing.T) {
	for i, one := range bad {
		found, text := judged(t, made(one, int64(i)), rules{})
		v := found["planted"]
		if v == nil || v.kind != one.kind || len(found) != 1 {
			t.Errorf("%s: not refused as %s alone:\n%s", one.name, one.kind, text)
			continue
		}
		var named []string
		for _, o := range v.ops {
			value := o.shows()
			if value == "" {
				value = "nothing"
			}
			named = append(named, value)
		}
		sort.Strings(named)
		if named = slices.Compact(named); !slices.Equal(named, one.named) {
			t.Errorf("%s: names %v instead of %v:\n%s", one.name, named, one.named, text)
		}
		if !strings.Contains(text, "of record planted") {
			t.Errorf("%s: the record is not named: %s", one.name, text)
		}
	}
}

func TestAcceptsGoodHistories(t *testing.T) {
	for i, one := range good {
		if found, text := judged(t, made(one.planted, int64(100+i)), rules{}); len(found) > 0 {
			t.Errorf("%s is refused:\n%s", one.name, text)
		}
		if found, _ := judged(t, made(one.planted, int64(100+i)), rules{strict: true}); (found["planted"] != nil) != one.isStrict {
			t.Errorf("%s: refused by -strict: %v", one.name, !one.isStrict)
		}
	}
	for seed := int64(0); seed < 100; seed++ {
		m := &maker{}
		m.run(rand.New(rand.NewSource(seed)), 3)
		if found, text := judged(t, m.text(), rules{}); len(found) > 0 {
			t.Errorf("seed %d is refused:\n%s", seed, text)
		}
	}
}

// Without its rules a bad history passes, or a good one is refused: no rule can be left out.
func TestEachRuleIsNeeded(t *testing.T) {
	without := func(one planted) rules {
		off := map[string]bool{}
		for _, name := range strings.Split(one.needs, ", ") {
			off[name] = true
		}
		return rules{off: off}
	}
	for i, one := range bad {
		if found, text := judged(t, made(one, int64(i)), without(one)); len(found) > 0 {
			t.Errorf("%s is refused without %s:\n%s", one.name, one.needs, text)
		}
	}
	for i, one := range good {
		if one.needs == "" {
			continue
		}
		if found, _ := judged(t, made(one.planted, int64(100+i)), without(one.planted)); found["planted"] == nil {
			t.Errorf("%s is accepted without the rule %q", one.name, one.needs)
		}
	}
}

// A good history in which one read at random shows another write of its record is refused where that can be known.
func TestRefusesAlteredReads(t *testing.T) {
	refused, altered := 0, 0
	for seed := int64(0); seed < 60; seed++ {
		random := rand.New(rand.NewSource(seed))
		m := &maker{}
		m.run(random, 1)
		h, err := parse(strings.NewReader(m.text()))
		if err != nil {
			t.Fatal(err)
		}
		var reads, writes []*operation
		for _, o := range h.records[0].ops {
			if o.Op == "read" {
				reads = append(reads, o)
			} else if o.Op == "write" && o.Result == "ok" {
				writes = append(writes, o)
			}
		}
		read := reads[random.Intn(len(reads))]
		before := read.shows()
		read.Value = writes[random.Intn(len(writes))].Value
		if read.shows() == before {
			continue
		}
		altered++
		if judge(h.records[0].ops, rules{skew: 2 * second, limit: 20 * time.Second}) != nil {
			refused++
		}
	}
	if refused < altered*9/10 {
		t.Errorf("%d of %d are refused", refused, altered)
	}
	t.Logf("%d of %d altered reads are refused", refused, altered)
}

func TestMayAcceptASecondEffect(t *testing.T) {
	for _, one := range bad {
		found, text := judged(t, made(one, 1), rules{again: true})
		if (found["planted"] == nil) != (one.kind == "again") {
			t.Errorf("%s with -again:\n%s", one.name, text)
		}
	}
}

func TestAnUndecidedRecordIsAViolation(t *testing.T) {
	m := &maker{}
	m.run(rand.New(rand.NewSource(1)), 1)
	found, text := judged(t, m.text(), rules{limit: time.Nanosecond})
	if len(found) != 1 || !strings.Contains(text, "did not end in 1ns") {
		t.Errorf("not told: %s", text)
	}
}

func TestRefusesWhatIsNoHistory(t *testing.T) {
	line := `{"client":1,"op":"write","key":"k","id":"i","value":"v","start_us":1,"end_us":2,"result":"ok"}`
	for change, with := range map[string]string{
		`"write"`: `"put"`, `"result":"ok"`: `"result":"fine"`, `"end_us":2`: `"end_us":null`, `"start_us":1`: `"start_us":3`,
		`"value":"v"`: `"value":""`, `"id":"i",`: ``, `{`: `[`,
	} {
		if _, err := parse(strings.NewReader(strings.Replace(line, change, with, 1))); err == nil {
			t.Errorf("%s instead of %s is taken", with, change)
		}
	}
	for _, text := range []string{"", "\n", line + "\n" + line} {
		if _, err := parse(strings.NewReader(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	if _, err := parse(strings.NewReader(line)); err != nil {
		t.Error(err)
	}
}
