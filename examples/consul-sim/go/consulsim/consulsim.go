// Package consulsim runs the program consul-sim, and moves its clock. Copy it into your tests.
package consulsim

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"testing"
)

// Agent is a running consul-sim.
type Agent struct {
	// URL is the address of a client.
	URL     string
	control string
}

// Start runs the program until the test ends, with flags of `consul agent`. The variable CONSUL_SIM names the program;
// otherwise it is found in PATH.
func Start(t testing.TB, flags ...string) *Agent {
	t.Helper()
	program := os.Getenv("CONSUL_SIM")
	if program == "" {
		program = "consul-sim"
	}
	sim := exec.Command(program, append([]string{"agent", "-dev", "-http-port=0", "-sim-port=0"}, flags...)...)
	var errors bytes.Buffer
	sim.Stderr = &errors
	output, err := sim.StdoutPipe()
	if err == nil {
		err = sim.Start()
	}
	if err != nil {
		t.Fatalf("consul-sim: %v", err)
	}
	t.Cleanup(func() {
		_ = sim.Process.Kill()
		_ = sim.Wait()
	})
	lines := bufio.NewReader(output)
	line, _ := lines.ReadString('\n')
	urls := regexp.MustCompile(`https?://\S+`).FindAllString(line, -1)
	if len(urls) < 2 {
		_ = sim.Wait()
		t.Fatalf("consul-sim did not start: %s%s", line, errors.String())
	}
	go func() { _, _ = io.Copy(io.Discard, lines) }()
	return &Agent{URL: urls[0], control: urls[len(urls)-1]}
}

// Advance moves the time forward, as by "20s".
func (agent *Agent) Advance(t testing.TB, by string) {
	t.Helper()
	agent.call(t, http.MethodPost, "advance", map[string]any{"by": by})
}

// Fault adds a fault, as {"status": 500}. It lasts until Heal or Reset.
func (agent *Agent) Fault(t testing.TB, options map[string]any) {
	t.Helper()
	agent.call(t, http.MethodPost, "fault", options)
}

// Heal removes all faults.
func (agent *Agent) Heal(t testing.TB) {
	t.Helper()
	agent.call(t, http.MethodDelete, "fault", nil)
}

// Reset begins again as at the start, without faults.
func (agent *Agent) Reset(t testing.TB) {
	t.Helper()
	agent.call(t, http.MethodPost, "reset", nil)
}

func (agent *Agent) call(t testing.TB, method, name string, options map[string]any) {
	t.Helper()
	var body io.Reader
	if options != nil {
		text, err := json.Marshal(options)
		if err != nil {
			t.Fatalf("/sim/%s: %v", name, err)
		}
		body = bytes.NewReader(text)
	}
	err := send(method, agent.control+"/sim/"+name, body)
	if err != nil {
		t.Fatalf("%s /sim/%s: %v", method, name, err)
	}
}

func send(method, url string, body io.Reader) error {
	request, err := http.NewRequest(method, url, body)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, text)
	}
	return nil
}
