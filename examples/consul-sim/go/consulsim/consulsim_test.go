package consulsim

import (
	"testing"

	"github.com/hashicorp/consul/api"
)

func TestALockEndsWithItsSession(t *testing.T) {
	agent := Start(t)
	client, err := api.NewClient(&api.Config{Address: agent.URL})
	if err != nil {
		t.Fatal(err)
	}
	session, _, err := client.Session().Create(&api.SessionEntry{TTL: "10s"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	held, _, err := client.KV().Acquire(&api.KVPair{Key: "leader", Session: session}, nil)
	if err != nil || !held {
		t.Fatalf("the lock is not held: %v", err)
	}
	agent.Advance(t, "20s")
	key, _, err := client.KV().Get("leader", nil)
	if err != nil || key.Session != "" {
		t.Fatalf("the lock is not free: %+v, %v", key, err)
	}
}

func TestAFaultLastsUntilItIsHealed(t *testing.T) {
	agent := Start(t, "-datacenter=east")
	client, err := api.NewClient(&api.Config{Address: agent.URL})
	if err != nil {
		t.Fatal(err)
	}
	put := func() error {
		_, err := client.KV().Put(&api.KVPair{Key: "color", Value: []byte("blue")}, nil)
		return err
	}
	agent.Fault(t, map[string]any{"status": 500})
	if put() == nil {
		t.Fatal("there is no fault")
	}
	agent.Heal(t)
	if err := put(); err != nil {
		t.Fatal(err)
	}
	agent.Reset(t)
	if key, _, err := client.KV().Get("color", nil); err != nil || key != nil {
		t.Fatalf("it has not begun again: %+v, %v", key, err)
	}
}
