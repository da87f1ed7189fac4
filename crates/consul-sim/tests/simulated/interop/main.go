// Command interop tells what HashiCorp's own Go client sees of the Consul at CONSUL_HTTP_ADDR.
//
// The account has no ids, indexes, addresses or times, so that two Consuls which behave alike give
// the same one. With CONSUL_HTTP_TOKEN, the management token of a server with ACLs, it has a
// chapter more. Exit status: 0 when it was told to its end.
//
// With the argument "contend" and a folder it contends for a lock and a semaphore instead.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

// patience is how long anything may take that has to happen.
const patience = 5 * time.Minute

func main() {
	client, err := api.NewClient(api.DefaultConfig())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if len(os.Args) == 3 && os.Args[1] == "contend" {
		if err := contend(client, os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	chapters := []chapter{
		{"keys and values", keysAndValues},
		{"check and set", checkAndSet},
		{"blocking queries", blockingQueries},
		{"transactions", transactions},
		{"sessions", sessions},
		{"lock", lock},
		{"semaphore", semaphore},
		{"service", service},
		{"health", health},
		{"filters", filters},
		{"events", events},
	}
	if os.Getenv(api.HTTPTokenEnvName) != "" {
		chapters = append(chapters, chapter{"tokens", tokens})
	}
	for _, chapter := range chapters {
		fmt.Printf("\n# %s\n", chapter.title)
		chapter.tell(story{client})
	}
	fmt.Println("\nthe end")
}

// chapter is a part of the account.
type chapter struct {
	title string
	tell  func(story)
}

// story is what a chapter is told with.
type story struct {
	*api.Client
}

// say prints one line: what was done, and what came of it.
func (story) say(what string, seen ...any) {
	line := what + ":"
	for _, value := range seen {
		if text, ok := value.([]byte); ok {
			value = string(text)
		}
		line += fmt.Sprintf(" %v", value)
	}
	fmt.Println(line)
}

// refused says that a call failed, with which status, and whether with this text.
func (s story) refused(what string, err error, text string) {
	var status api.StatusError
	switch {
	case err == nil:
		s.say(what, "was not refused")
	case !errors.As(err, &status):
		s.say(what, "failed without a status:", err)
	case strings.Contains(status.Body, text):
		s.say(what, "refused,", status.Code, text)
	default:
		s.say(what, "refused,", status.Code, status.Body)
	}
}

// must ends the story when something failed that cannot fail.
func (story) must(err error) {
	if err != nil {
		fmt.Println("failed:", err)
		panic(err)
	}
}

// get is a read that must succeed.
func get[T any](value T, meta *api.QueryMeta, err error) (T, uint64) {
	story{}.must(err)
	return value, meta.LastIndex
}

// put is a write that must succeed.
func put[T any](value T, _ *api.WriteMeta, err error) T {
	story{}.must(err)
	return value
}

// done is a write without a result, that must succeed.
func done(_ *api.WriteMeta, err error) {
	story{}.must(err)
}

// in gives what a call that runs elsewhere gives, in time.
func in[T any](results <-chan T) T {
	select {
	case result := <-results:
		return result
	case <-time.After(patience):
		panic("nothing came of it in time")
	}
}

// start makes a call elsewhere.
func start[T any](call func() T) <-chan T {
	results := make(chan T, 1)
	go func() { results <- call() }()
	return results
}

// isLost is whether the channel of a lock closes in time.
func isLost(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	case <-time.After(patience):
		return false
	}
}

// waits is whether nothing comes yet of a call that runs elsewhere.
func waits[T any](results <-chan T) bool {
	select {
	case <-results:
		return false
	case <-time.After(300 * time.Millisecond):
		return true
	}
}

// until asks for something again and again until it is as wanted, and gives what it saw last.
func until[T any](wanted func(T) bool, ask func() T) T {
	end := time.Now().Add(patience)
	for {
		seen := ask()
		if wanted(seen) || time.Now().After(end) {
			return seen
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// names gives a list in an order of its own, for answers that have none.
func names[T any](items []T, name func(T) string) []string {
	var list []string
	for _, item := range items {
		list = append(list, name(item))
	}
	slices.Sort(list)
	return list
}

// value is a key's value, or that there is none.
func (s story) value(key string) string {
	pair, _ := get(s.KV().Get(key, nil))
	if pair == nil {
		return "(no such key)"
	}
	return string(bytes.ToValidUTF8(pair.Value, []byte("?")))
}
