// The rules of one record, and their search. Nothing here is the product's code; the search is porcupine's.
//
// Each record (id) is a register of its own: docs/data.md, "What it does not promise: No transactions", and decision 036.
// What is checked, with W and R majorities of N, and where it is promised:
//
//	known    A complete read shows a value that a write had, or none. "Nothing is ever silently empty", data.md, The promise.
//	refused  The value of a refused write is never seen. "A write that was refused … changes nothing", data.md, The promise.
//	order    Acknowledged writes and complete reads have one order in which each is at a moment between its begin and its
//	         end, and a read shows the write before it: a linearizable register. "A write that was acknowledged is, or a
//	         newer version of the same record is, in every later read that says it is complete", "Of two complete
//	         reads, one after the other, the second shows nothing older", data.md; "one that begins after another one
//	         has ended wins", decision 036.
//	late     A write that failed, or had no answer, takes effect at any later moment, once, or never. "May be stored
//	         nevertheless, and be seen from some read on", data.md.
//	sealed   It takes no effect after a write that began more than max_skew_s after its end. "It may replace a write
//	         that is acknowledged up to max_skew_s later …, and no write after that", data.md. The begin counts, not the
//	         acknowledgement: a write has its version before it is stored, and "of two writes within max_skew_s of each
//	         other … either may be the later one". A write without an answer has no end; it is sealed only by having
//	         been seen: from the end of the first complete read on that showed it, the time of max_skew_s runs.
//	hidden   Within that time it may also hide a write that is acknowledged while it is the newest, as the same sentence
//	         says. With -strict it may not once a complete read has shown it: data.md does not promise that in words, but the
//	         reason in decision 038 (such a read waits until W replicas have it, and the next write meets one of them) does.
//	again    An acknowledged write takes effect once, as in any register, but while it runs: "A write that is still running may be
//	         seen, replaced and seen again … Once it has ended, it does not come back", data.md. It is repeated above a newer
//	         version then. Such records are told apart from all others; -again, which scripts/soak.sh gives, accepts them.
//	slow     A read that took 500 ms or more may have returned what fewer than W replicas have: "If replicas cannot store it
//	         within 500 ms, the next read may show the older record again", data.md. So such a read, unless it shows a write
//	         that was acknowledged before it began, has no place in the order. It must still show nothing older than each
//	         write that was acknowledged before it began.
//
// Reads that fail or say that they are incomplete promise nothing and are left out. A search that does not end in its time is
// no success: the record is undecided, which fails the check.
package main

import (
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Times are in microseconds. `never` is later than any.
const (
	slowRead = 500_000
	never    = math.MaxInt64 / 4
)

// rules are the limits of the check, and which rules are off: only the tests, which show that each is needed, switch any off.
type rules struct {
	skew   int64
	strict bool
	again  bool
	limit  time.Duration
	off    map[string]bool
}

func (r rules) has(name string) bool {
	return !r.off[name]
}

// A verdict is what is wrong with a record, and the operations that show it.
type verdict struct {
	kind string
	text string
	ops  []*operation
}

// A record is the history of one id.
type record struct {
	id  string
	ops []*operation
}

// analysis has what the rules need of a record's operations.
type analysis struct {
	rules
	writes map[string]*operation // by value, without deletions
	bound  map[*operation]int64  // of failed writes: a write that begins later is newer
	shown  map[*operation]int64  // the end of the first read in the order that showed it
	placed []*operation          // complete reads that have a place in the order
	slow   []*operation          // those that have none
}

func (o *operation) changes() bool { return o.Op != "read" }
func (o *operation) isAcked() bool { return o.changes() && o.Result == "ok" }

// end is when the operation ended, `never` if it had no answer.
func (o *operation) end() int64 {
	if o.End == nil {
		return never
	}
	return *o.End
}

// shows returns the value after a write, or of a read; "" is none.
func (o *operation) shows() string {
	if o.Value == nil {
		return ""
	}
	return *o.Value
}

// analyse sorts the operations of a record. A verdict is one that needs no search.
func analyse(ops []*operation, r rules) (*analysis, *verdict) {
	a := &analysis{rules: r, writes: map[string]*operation{}, bound: map[*operation]int64{}, shown: map[*operation]int64{}}
	for _, o := range ops {
		if o.Op == "write" {
			a.writes[o.shows()] = o
		}
	}
	for _, o := range ops {
		if o.Op != "read" || o.Result != "ok" {
			continue
		}
		w := a.writes[o.shows()]
		if o.shows() != "" && w == nil {
			if r.has("known") {
				return nil, &verdict{"known", "a read shows a value that nobody wrote", []*operation{o}}
			}
			continue
		}
		if w != nil && w.Result == "refused" && r.has("refused") {
			return nil, &verdict{"refused", "a read shows the value of a refused write", []*operation{w, o}}
		}
		isSlow := o.end()-o.Start >= slowRead
		if isSlow && w != nil && w.isAcked() && w.end() < o.Start {
			isSlow = false
		}
		if !r.has("order") || isSlow && r.has("slow") {
			a.slow = append(a.slow, o)
			continue
		}
		a.placed = append(a.placed, o)
		if w != nil {
			if first, is := a.shown[w]; !is || o.end() < first {
				a.shown[w] = o.end()
			}
		}
	}
	for _, o := range ops {
		if o.changes() && !o.isAcked() {
			ending := o.end()
			if first, is := a.shown[o]; is && ending == never {
				ending = first
			}
			a.bound[o] = min(never, ending+r.skew)
		}
	}
	return a, nil
}

// isBelow tells whether a write certainly has a lower version than the acknowledged write w.
func (a *analysis) isBelow(o, w *operation) bool {
	if o.isAcked() {
		return o.end() < w.Start
	}
	return w.Start > a.bound[o] && a.has("sealed")
}

// checkSlow looks for a write that a slow read may have shown. It is the rule "slow".
func (a *analysis) checkSlow(ops []*operation, r *operation) *verdict {
	var newest *operation
	var acked []*operation
	for _, w := range ops {
		if w.isAcked() && w.end() < r.Start {
			acked = append(acked, w)
			if newest == nil || w.Start > newest.Start {
				newest = w
			}
		}
	}
	var candidates []*operation
	for _, w := range ops {
		if w.changes() && w.Result != "refused" && w.shows() == r.shows() && w.Start <= r.end() {
			candidates = append(candidates, w)
		}
	}
	if r.shows() == "" && newest == nil {
		return nil
	}
	for _, c := range candidates {
		isOvertaken := false
		for _, w := range acked {
			isOvertaken = isOvertaken || w != c && a.isBelow(c, w)
		}
		if !isOvertaken {
			return nil
		}
	}
	named := append([]*operation{}, candidates[max(0, len(candidates)-3):]...)
	if newest != nil {
		named = append(named, newest)
	}
	return &verdict{"slow", "a slow read shows something older than an acknowledged write", append(named, r)}
}

// state is what the newest write is, and the latest begin of a write that took effect.
type state struct {
	newest *operation
	sealed int64
}

// again is the second effect of a write, which may be missing.
type again struct{ *operation }

func (a *analysis) step(from, input, _ any) []any {
	s := from.(state)
	if second, is := input.(again); is {
		return []any{s, state{second.operation, s.sealed}}
	}
	o := input.(*operation)
	if o.Op == "read" {
		value := ""
		if s.newest != nil {
			value = s.newest.shows()
		}
		if value == o.shows() {
			return []any{s}
		}
		return nil
	}
	if !o.isAcked() && s.sealed > a.bound[o] && a.has("sealed") {
		return []any{s}
	}
	after := state{o, max(s.sealed, o.Start)}
	mayHide := o.isAcked() && s.newest != nil && !s.newest.isAcked() && o.Start <= a.bound[s.newest] && a.has("hidden")
	if mayHide && !a.strict {
		return []any{after, state{s.newest, after.sealed}}
	}
	return []any{after}
}

// wasShownBefore tells whether a read in the order may have shown a write before it ended. What a deletion leaves is also
// what other ones do.
func (a *analysis) wasShownBefore(o *operation) bool {
	if o.Op == "write" {
		first, is := a.shown[o]
		return is && o.End != nil && first < o.end()
	}
	return o.Op == "delete" && o.End != nil && o.Result != "refused" && slices.ContainsFunc(a.placed, func(r *operation) bool {
		return r.shows() == "" && o.Start <= r.end() && r.end() < o.end()
	})
}

// search looks for an order of the record's operations.
func (a *analysis) search(ops []*operation, limit time.Duration) porcupine.CheckResult {
	var lastEmpty, last int64 = -1, 0
	for _, o := range ops {
		last = max(last, o.Start)
		if o.End != nil {
			last = max(last, *o.End)
		}
	}
	for _, r := range a.placed {
		if r.shows() == "" {
			lastEmpty = max(lastEmpty, r.end())
		}
	}
	var history []porcupine.Operation
	add := func(o *operation, end int64) {
		history = append(history, porcupine.Operation{ClientId: 0, Input: o, Call: o.Start, Return: max(o.Start, end)})
	}
	for _, o := range ops {
		switch {
		case !o.changes() || o.Result == "refused" && a.has("refused"):
		case o.isAcked():
			add(o, o.end())
		case !a.has("late"):
			add(o, min(o.end(), o.Start+slowRead))
		case o.Op == "write":
			// What no read shows may be left out, and the first read that shows it ends the time in which it takes effect.
			if first, is := a.shown[o]; is {
				add(o, first)
			}
		case o.Start <= lastEmpty:
			add(o, last+1)
		}
	}
	for _, r := range a.placed {
		add(r, r.end())
	}
	for _, o := range ops {
		if a.again && a.wasShownBefore(o) {
			history = append(history, porcupine.Operation{Input: again{o}, Call: o.Start, Return: o.end()})
		}
	}
	model := porcupine.NondeterministicModel{
		Init: func() []any { return []any{state{nil, -1}} },
		Step: a.step,
	}
	return porcupine.CheckOperationsTimeout(model.ToModel(), history, limit)
}

// judge checks one record; nil if all is as promised.
func judge(ops []*operation, r rules) *verdict {
	a, found := analyse(ops, r)
	if found != nil {
		return found
	}
	if r.has("bound of slow reads") {
		for _, o := range a.slow {
			if found := a.checkSlow(ops, o); found != nil {
				return found
			}
		}
	}
	switch a.search(ops, r.limit) {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return &verdict{"undecided", fmt.Sprintf("the search did not end in %s", r.limit), nil}
	}
	if !r.again && r.has("again") {
		other := r
		other.again = true
		a, _ := analyse(ops, other)
		if a.search(ops, r.limit) == porcupine.Ok {
			text := "a write takes effect a second time, after another one that was acknowledged meanwhile"
			return &verdict{"again", text, shrink(ops, r)}
		}
		r = other
	}
	return &verdict{"order", "there is no order in which each read shows the newest write", shrink(ops, r)}
}

// shrink leaves out operations as long as the rest has no order either. Left out are reads, and writes that no read shows; what
// remains is a proof by itself, since an order of all would be one of the rest, too.
func shrink(ops []*operation, r rules) []*operation {
	deadline := time.Now().Add(20 * time.Second)
	rest := append([]*operation{}, ops...)
	isBad := func(tried []*operation) bool {
		written, isEmpty := map[string]bool{}, false
		for _, o := range tried {
			if o.Op == "write" {
				written[o.shows()] = true
			}
		}
		for _, o := range tried {
			if o.Op == "read" && o.Result == "ok" {
				if o.shows() != "" && !written[o.shows()] {
					return false
				}
				isEmpty = isEmpty || o.shows() == ""
			}
		}
		if isEmpty {
			deletions := 0
			for _, o := range tried {
				if o.Op == "delete" {
					deletions++
				}
			}
			for _, o := range ops {
				if o.Op == "delete" {
					deletions--
				}
			}
			if deletions != 0 {
				return false
			}
		}
		a, found := analyse(tried, r)
		return found == nil && a.search(tried, time.Second) == porcupine.Illegal
	}
	for size := (len(rest) + 1) / 2; size > 0; {
		before := len(rest)
		for first := 0; first < len(rest) && time.Now().Before(deadline); {
			tried := append([]*operation{}, rest[:first]...)
			tried = append(tried, rest[min(first+size, len(rest)):]...)
			if isBad(tried) {
				rest = tried
			} else {
				first += size
			}
		}
		// What is left out last may let earlier ones be left out, too.
		if size > 1 || len(rest) == before {
			size /= 2
		}
	}
	sort.SliceStable(rest, func(i, j int) bool { return rest[i].Start < rest[j].Start })
	return rest
}

func (o *operation) String() string {
	ending := "no answer"
	if o.End != nil {
		ending = fmt.Sprintf("%.6f s", float64(*o.End)/1e6)
	}
	value := o.shows()
	if value == "" {
		value = "nothing"
	}
	text := fmt.Sprintf("line %d: client %s, %s of %s, %s: %.6f s to %s", o.line, strings.Trim(string(o.Client), `"`), o.Op,
		value, o.Result, float64(o.Start)/1e6, ending)
	if o.Version != "" {
		text += ", version " + o.Version
	}
	return text
}
