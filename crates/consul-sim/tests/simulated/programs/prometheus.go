//go:build ignore

// Prints the targets that Prometheus' discovery by Consul has sent so far, as a line of JSON after each change: the group's source and
// its labels with those of each target. It is built in a copy of Prometheus' module; its arguments are the options as JSON.
package main

import (
	"context"
	"encoding/json"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/consul"
	"github.com/prometheus/prometheus/discovery/targetgroup"
)

func main() {
	config := consul.DefaultSDConfig
	if err := json.Unmarshal([]byte(os.Args[1]), &config); err != nil {
		panic(err)
	}
	config.Server = os.Getenv("CONSUL_HTTP_ADDR")
	config.RefreshInterval = model.Duration(time.Second)
	metrics := config.NewDiscovererMetrics(prometheus.NewRegistry(), discovery.NewRefreshMetrics(prometheus.NewRegistry()))
	if err := metrics.Register(); err != nil {
		panic(err)
	}
	discoverer, err := consul.NewDiscovery(&config, nil, metrics)
	if err != nil {
		panic(err)
	}
	groups := make(chan []*targetgroup.Group)
	go discoverer.Run(context.Background(), groups)
	seen := map[string][]model.LabelSet{}
	out := json.NewEncoder(os.Stdout)
	for changed := range groups {
		for _, group := range changed {
			delete(seen, group.Source)
			for _, target := range group.Targets {
				seen[group.Source] = append(seen[group.Source], target.Merge(group.Labels))
			}
		}
		if err := out.Encode(seen); err != nil {
			panic(err)
		}
	}
}
