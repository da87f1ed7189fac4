//go:build ignore

// Prints each configuration that Traefik's provider for Consul's catalog makes, as a line of JSON. It is built in a copy of Traefik's
// module.
package main

import (
	"context"
	"encoding/json"
	"os"
	"time"

	ptypes "github.com/traefik/paerser/types"
	"github.com/traefik/traefik/v3/pkg/config/dynamic"
	"github.com/traefik/traefik/v3/pkg/provider/consulcatalog"
	"github.com/traefik/traefik/v3/pkg/safe"
)

func main() {
	provider := &consulcatalog.Provider{}
	provider.SetDefaults()
	provider.Endpoint.Address = os.Getenv("CONSUL_HTTP_ADDR")
	provider.ConnectAware = true
	provider.Watch = true
	provider.RefreshInterval = ptypes.Duration(time.Second)
	provider.Constraints = "!Tag(`hidden`)"
	if err := provider.Init(); err != nil {
		panic(err)
	}
	messages := make(chan dynamic.Message)
	if err := provider.Provide(messages, safe.NewPool(context.Background())); err != nil {
		panic(err)
	}
	out := json.NewEncoder(os.Stdout)
	for message := range messages {
		if err := out.Encode(message.Configuration); err != nil {
			panic(err)
		}
	}
}
