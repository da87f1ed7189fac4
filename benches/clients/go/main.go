// The official Go client as one of the compared clients. The commands are those of worker.lua.
//
//	go-client ADDRESS
package main

import (
	"bufio"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

const key = "bench/key"

var value = []byte(strings.Repeat("v", 100))

func main() {
	config := api.DefaultConfig()
	config.Address = os.Args[1]
	// By default it keeps one idle connection more than there are processors, and opens a new one for
	// most concurrent reads.
	config.Transport.MaxIdleConnsPerHost = 64
	client, err := api.NewClient(config)
	check(err)
	kv := client.KV()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var command string
		var first, second int
		fmt.Sscan(lines.Text(), &command, &first, &second)
		begun := time.Now()
		switch command {
		case "get":
			for range first {
				get(kv)
			}
		case "put":
			for range first {
				_, err := kv.Put(&api.KVPair{Key: key, Value: value}, nil)
				check(err)
			}
		case "batch":
			batch(kv, first, second)
		case "paced":
			paced(kv, first, second)
			continue
		}
		fmt.Printf("%.9f\n", time.Since(begun).Seconds())
	}
}

func get(kv *api.KV) {
	pair, _, err := kv.Get(key, nil)
	check(err)
	if len(pair.Value) != len(value) {
		panic("another value")
	}
}

func batch(kv *api.KV, count, limit int) {
	var group sync.WaitGroup
	turns := make(chan struct{}, limit)
	for range count {
		turns <- struct{}{}
		group.Add(1)
		go func() {
			get(kv)
			<-turns
			group.Done()
		}()
	}
	group.Wait()
}

func paced(kv *api.KV, rate, seconds int) {
	count := rate * seconds
	late := make([]float64, count)
	turns := make(chan struct{}, 64)
	var group sync.WaitGroup
	begun := time.Now()
	for i := range count {
		due := begun.Add(time.Duration(i) * time.Second / time.Duration(rate))
		if ahead := time.Until(due); ahead > 0 {
			time.Sleep(ahead)
		}
		turns <- struct{}{}
		group.Add(1)
		go func() {
			get(kv)
			late[i] = time.Since(due).Seconds()
			<-turns
			group.Done()
		}()
	}
	group.Wait()
	slices.Sort(late)
	quantile := func(part float64) float64 {
		return late[max(0, int(math.Ceil(part*float64(count)))-1)]
	}
	fmt.Printf("%.9f %.9f %.9f %.9f\n", quantile(0.5), quantile(0.99), quantile(0.999), late[count-1])
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
