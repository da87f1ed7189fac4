// Checks the history of a replicated store for what docs/data.md promises of single records.
//
//	go run . [-skew 2s] [-limit 30s] [-strict] [-again] FILE…
//
// A file has one operation per line, as JSON:
//
//	{"client":3,"op":"write","key":"k1","id":"k1/5","value":"v17","start_us":1000,"end_us":2500,"result":"ok"}
//
//	client    a number or a text
//	op        "write", "delete" or "read"
//	key, id   the record: an id is unique, and has always the same key
//	value     of a write: not empty, another one in each; of a read: what it showed, null or left out if there was no record
//	start_us  before the call, in microseconds of one monotonic clock
//	end_us    after it; null if no answer came: then the call may still run
//	result    "ok"          acknowledged; a complete read
//	          "failed"      an error was returned, and the call runs no longer
//	          "unknown"     no answer came
//	          "refused"     of a write: an error that says that nothing was changed (conflict)
//	          "incomplete"  of a read: it said so
//	version   what the store calls the version, or left out; it is printed, and decides nothing
//
// Empty lines are skipped. rules.go has what is checked, and where it is promised. Prints each record that breaks a rule
// with its operations, then one line of numbers per file. The last line is "N violations". Ends with status 0 if that is
// 0, with 1 if it is not, and with 2 if a file is not a history.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"time"
)

type operation struct {
	Client  json.RawMessage `json:"client"`
	Op      string          `json:"op"`
	Key     string          `json:"key"`
	ID      string          `json:"id"`
	Value   *string         `json:"value"`
	Start   int64           `json:"start_us"`
	End     *int64          `json:"end_us"`
	Result  string          `json:"result"`
	Version string          `json:"version"`
	line    int
}

// Which results each operation may have.
var results = map[string][]string{
	"write":  {"ok", "failed", "unknown", "refused"},
	"delete": {"ok", "failed", "unknown", "refused"},
	"read":   {"ok", "failed", "unknown", "incomplete"},
}

// problem returns what is wrong with the form of an operation, or "".
func (o *operation) problem() string {
	allowed, isKnown := results[o.Op]
	switch {
	case !isKnown:
		return fmt.Sprintf("op is %q", o.Op)
	case o.ID == "" || len(o.Client) == 0:
		return "id or client is missing"
	case !slices.Contains(allowed, o.Result):
		return fmt.Sprintf("the result of a %s is %q", o.Op, o.Result)
	case (o.End == nil) != (o.Result == "unknown"):
		return "end_us must be null if the result is unknown, and only then"
	case o.End != nil && *o.End < o.Start || o.Start < 0:
		return "end_us is before start_us, or a time is negative"
	case o.Op == "write" && o.shows() == "":
		return "a write has no value"
	case o.Op == "delete" && o.shows() != "":
		return "a delete has a value"
	}
	return ""
}

// A history is the records of a file in the order of their first lines.
type history struct {
	records []*record
	count   int
}

// parse reads a history. It fails if the file is not one, so that nothing passes because it was not understood.
func parse(in io.Reader) (*history, error) {
	all, of, keys, values := &history{}, map[string]*record{}, map[string]string{}, map[string]int{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for number := 1; lines.Scan(); number++ {
		if len(lines.Bytes()) == 0 {
			continue
		}
		o := &operation{line: number}
		if err := json.Unmarshal(lines.Bytes(), o); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if problem := o.problem(); problem != "" {
			return nil, fmt.Errorf("line %d: %s", number, problem)
		}
		if key, is := keys[o.ID]; is && key != o.Key {
			return nil, fmt.Errorf("line %d: %s has the keys %s and %s", number, o.ID, key, o.Key)
		}
		keys[o.ID] = o.Key
		if o.Op == "write" {
			if before := values[o.shows()]; before > 0 {
				return nil, fmt.Errorf("lines %d and %d write the same value", before, number)
			}
			values[o.shows()] = number
		}
		if of[o.ID] == nil {
			of[o.ID] = &record{id: o.ID}
			all.records = append(all.records, of[o.ID])
		}
		of[o.ID].ops = append(of[o.ID].ops, o)
		all.count++
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if all.count == 0 {
		return nil, fmt.Errorf("there are no operations")
	}
	return all, nil
}

// check prints what breaks a rule, and the numbers of the history; returns the number of records that break one.
func (h *history) check(r rules, out io.Writer) int {
	violations, counts, slow := 0, map[string]int{}, 0
	for _, one := range h.records {
		for _, o := range one.ops {
			counts[o.Op+" "+o.Result]++
			if o.Op == "read" && o.Result == "ok" && o.end()-o.Start >= slowRead {
				slow++
			}
		}
		if found := judge(one.ops, r); found != nil {
			violations++
			fmt.Fprintf(out, "VIOLATION (%s) of record %s: %s\n", found.kind, one.id, found.text)
			for _, o := range found.ops {
				fmt.Fprintf(out, "  %s\n", o)
			}
		}
	}
	fmt.Fprintf(out, "%d operations on %d records:", h.count, len(h.records))
	for _, op := range []string{"write", "delete", "read"} {
		fmt.Fprintf(out, " %ss", op)
		for _, result := range []string{"ok", "failed", "unknown", "refused", "incomplete"} {
			if n := counts[op+" "+result]; n > 0 {
				fmt.Fprintf(out, " %d %s,", n, result)
			}
		}
	}
	fmt.Fprintf(out, " %d complete reads slow\n", slow)
	return violations
}

func main() {
	skew := flag.Duration("skew", 2*time.Second, "max_skew_s of the store")
	limit := flag.Duration("limit", 30*time.Second, "time of the search in one record; a longer one counts as a violation")
	strict := flag.Bool("strict", false, "what a complete read has shown hides no later write")
	again := flag.Bool("again", false, "a write that is not acknowledged yet may take effect twice")
	flag.Parse()
	if flag.NArg() == 0 {
		flag.Usage()
		os.Exit(2)
	}
	violations := 0
	for _, name := range flag.Args() {
		file, err := os.Open(name)
		if err == nil {
			var h *history
			if h, err = parse(file); err == nil {
				fmt.Printf("%s: ", name)
				violations += h.check(rules{skew: skew.Microseconds(), strict: *strict, again: *again, limit: *limit}, os.Stdout)
			}
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			os.Exit(2)
		}
	}
	fmt.Printf("%d violations\n", violations)
	if violations > 0 {
		os.Exit(1)
	}
}
