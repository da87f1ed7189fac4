// Command failover holds a lock with HashiCorp's Go client, and prints the time of each step.
//
// Its input and output are those of tests/support/holder.rs, with `defaults` or `short` instead of a
// profile.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
)

func main() {
	input := bufio.NewScanner(os.Stdin)
	input.Scan()
	orders := strings.Fields(input.Text())
	if len(orders) < 6 {
		fail(fmt.Errorf("usage: URL KEY defaults|short - - PREFIX … on the standard input"))
	}
	config := api.DefaultConfig()
	config.Address = orders[0]
	client, err := api.NewClient(config)
	fail(err)
	options := &api.LockOptions{Key: orders[1]}
	if orders[2] == "short" {
		options.SessionTTL = "10s"
		// The minimum: 0 would mean the default of 15 seconds.
		options.LockDelay = time.Millisecond
	}
	lock, err := client.LockOpts(options)
	fail(err)
	_, err = lock.Lock(nil)
	fail(err)
	say("held")
	_, err = client.KV().Put(&api.KVPair{Key: orders[5] + "/0"}, nil)
	fail(err)
	say("writes")
	for input.Scan() {
		say("releases")
		fail(lock.Unlock())
		say("released")
	}
}

func say(what string) {
	fmt.Println(time.Now().UnixNano(), what)
}

func fail(err error) {
	if err != nil {
		say("failed " + err.Error())
		os.Exit(1)
	}
}
