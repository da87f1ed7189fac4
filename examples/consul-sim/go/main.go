// A lock ends with its session, and the test does not sleep.
package main

import (
	"bufio"
	"fmt"
	"log"
	"net/http"
	"os/exec"
	"regexp"
	"strings"

	"github.com/hashicorp/consul/api"
)

func check(err error) {
	if err != nil {
		log.Panic(err)
	}
}

func main() {
	sim := exec.Command("consul-sim", "agent", "-dev", "-http-port=0", "-sim-port=0")
	output, err := sim.StdoutPipe()
	check(err)
	check(sim.Start())
	defer sim.Process.Kill()
	line, err := bufio.NewReader(output).ReadString('\n')
	check(err)
	urls := regexp.MustCompile(`http://\S+`).FindAllString(line, 2)

	client, err := api.NewClient(&api.Config{Address: urls[0]})
	check(err)
	session, _, err := client.Session().Create(&api.SessionEntry{TTL: "10s"}, nil)
	check(err)
	held, _, err := client.KV().Acquire(&api.KVPair{Key: "leader", Session: session}, nil)
	check(err)
	if !held {
		log.Panic("the lock is not held")
	}
	answer, err := http.Post(urls[1]+"/sim/advance", "application/json", strings.NewReader(`{"by": "20s"}`))
	check(err)
	answer.Body.Close()
	key, _, err := client.KV().Get("leader", nil)
	check(err)
	if key.Session != "" {
		log.Panic("the lock is held by ", key.Session)
	}
	fmt.Println("the lock is free")
}
