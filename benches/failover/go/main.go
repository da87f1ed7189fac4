// Command failover holds a lock as a program with HashiCorp's own Go client does, and tells when.
//
// The first line of its input is that of tests/support/holder.rs, with `defaults` or `short` in
// place of a profile; so are the lines that it prints.
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
		// The least: none would be taken for the default of 15 seconds.
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
