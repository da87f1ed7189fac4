package main

import (
	"github.com/hashicorp/consul/api"
)

// ofService waits until the health of a service is as wanted, and gives its one entry.
func (s story) ofService(name, status string) *api.ServiceEntry {
	entries := until(func(entries []*api.ServiceEntry) bool {
		return len(entries) == 1 && entries[0].Checks.AggregatedStatus() == status
	}, func() []*api.ServiceEntry {
		entries, _ := get(s.Health().Service(name, "", false, nil))
		return entries
	})
	if len(entries) != 1 {
		panic("there is no such service")
	}
	return entries[0]
}

// check is a check of a service as the health endpoint shows it.
func check(entry *api.ServiceEntry, id string) *api.HealthCheck {
	for _, check := range entry.Checks {
		if check.CheckID == id {
			return check
		}
	}
	panic("there is no such check")
}

func service(s story) {
	agent := s.Agent()
	s.must(agent.ServiceRegister(&api.AgentServiceRegistration{
		ID: "web-1", Name: "web", Tags: []string{"v1", "blue"}, Port: 8080, Address: "192.0.2.1",
		Meta:  map[string]string{"version": "1"},
		Check: &api.AgentServiceCheck{CheckID: "web-alive", TTL: "60s", Notes: "says so itself"},
	}))
	known, _, err := agent.Service("web-1", nil)
	s.must(err)
	s.say("registered", known.ID, known.Service, known.Tags, known.Port, known.Address, known.Meta,
		known.Weights)
	entry := s.ofService("web", api.HealthCritical)
	alive := check(entry, "web-alive")
	s.say("at first", alive.Status, alive.Name, alive.Notes, alive.ServiceName, alive.ServiceTags,
		alive.Type)
	for _, status := range []string{api.HealthPassing, api.HealthWarning, api.HealthCritical} {
		s.must(agent.UpdateTTL("web-alive", "I am "+status, status))
		entry = s.ofService("web", status)
		passing, _ := get(s.Health().Service("web", "", true, nil))
		s.say("told", check(entry, "web-alive").Status, check(entry, "web-alive").Output, len(passing))
		of, all, err := agent.AgentHealthServiceByID("web-1")
		s.must(err)
		s.say("the agent says", of, all.Service.ID)
	}
	err = agent.UpdateTTL("none", "", api.HealthPassing)
	s.say("an unknown check is refused", err != nil)

	s.must(agent.ServiceRegister(&api.AgentServiceRegistration{
		Name: "mortal", Check: &api.AgentServiceCheck{TTL: "2s", Status: api.HealthPassing},
	}))
	s.say("alive", check(s.ofService("mortal", api.HealthPassing), "service:mortal").Name)
	expired := check(s.ofService("mortal", api.HealthCritical), "service:mortal")
	s.say("expired", expired.Status, expired.Output)
	s.must(agent.UpdateTTL("service:mortal", "back", api.HealthPassing))
	s.say("back", check(s.ofService("mortal", api.HealthPassing), "service:mortal").Output)
	s.must(agent.ServiceDeregister("mortal"))

	s.must(agent.UpdateTTL("web-alive", "", api.HealthPassing))
	s.ofService("web", api.HealthPassing)
	s.must(agent.EnableServiceMaintenance("web-1", "moving"))
	entry = s.ofService("web", api.HealthMaint)
	maintenance := check(entry, "_service_maintenance:web-1")
	s.say("in maintenance", maintenance.Status, maintenance.Name, maintenance.Notes)
	s.must(agent.DisableServiceMaintenance("web-1"))
	s.say("and out of it", s.ofService("web", api.HealthPassing).Checks.AggregatedStatus())

	services, err := agent.Services()
	s.must(err)
	for name := range services {
		s.say("the agent's services", name)
	}
	in, _ := get(s.Catalog().Service("web", "blue", nil))
	for _, one := range in {
		s.say("in the catalog", one.ServiceID, one.ServiceAddress, one.ServicePort, one.ServiceTags,
			one.ServiceMeta, one.ServiceWeights)
	}
	in, _ = get(s.Catalog().Service("web", "green", nil))
	s.say("with another tag", len(in))
	s.must(agent.ServiceDeregister("web-1"))
	gone := until(func(left int) bool { return left == 0 }, func() int {
		left, _ := get(s.Catalog().Service("web", "", nil))
		return len(left)
	})
	s.say("deregistered", gone)
}

// object is JSON written by hand: the client's own types have fields that Consul 1.8 refuses.
type object map[string]any

// register enters a node and what belongs to it into the catalog.
func (s story) register(entry object) {
	done(s.Raw().Write("/v1/catalog/register", entry, nil, nil))
}

// registerDatabases enters one service on three nodes, passing, warning and critical.
func (s story) registerDatabases() {
	for _, one := range []struct{ node, id, status string }{
		{"n1", "db-1", api.HealthPassing}, {"n2", "db-2", api.HealthWarning}, {"n3", "db-3", api.HealthCritical},
	} {
		s.register(object{
			"Node": one.node, "Address": "192.0.2.9", "NodeMeta": object{"rack": "r" + one.node},
			"Service": object{"ID": one.id, "Service": "db", "Tags": []string{one.status}, "Port": 5432},
			"Checks": []object{
				{"CheckID": one.id + "-up", "Name": "up", "Status": one.status, "ServiceID": one.id},
				{"CheckID": "node-up", "Name": "node", "Status": api.HealthPassing},
			},
		})
	}
}

// deregisterDatabases takes them out again.
func (s story) deregisterDatabases() {
	for _, name := range []string{"n1", "n2", "n3"} {
		done(s.Catalog().Deregister(&api.CatalogDeregistration{Node: name}, nil))
	}
}

// entryID is the id of the service of an entry.
func entryID(entry *api.ServiceEntry) string { return entry.Service.ID }

func health(s story) {
	catalog := s.Catalog()
	s.registerDatabases()
	entries, _ := get(s.Health().Service("db", "", false, nil))
	for _, entry := range entries {
		s.say("an instance", entry.Node.Node, entry.Node.Meta, entry.Service.ID, entry.Service.Tags,
			entry.Checks.AggregatedStatus(),
			names(entry.Checks, func(check *api.HealthCheck) string { return check.CheckID }))
	}
	entries, _ = get(s.Health().Service("db", "", true, nil))
	s.say("passing", names(entries, entryID))
	entries, _ = get(s.Health().ServiceMultipleTags("db", []string{"warning"}, false, nil))
	s.say("by tag", names(entries, entryID))
	entries, _ = get(s.Health().Service("db", "", false,
		&api.QueryOptions{NodeMeta: map[string]string{"rack": "rn3"}}))
	s.say("by the node's meta", names(entries, entryID))
	checkID := func(check *api.HealthCheck) string { return check.CheckID }
	checks, _ := get(s.Health().Checks("db", nil))
	s.say("checks", names(checks, checkID))
	checks, _ = get(s.Health().Node("n2", nil))
	s.say("of a node", names(checks, checkID))
	checks, _ = get(s.Health().State(api.HealthCritical, nil))
	s.say("critical", names(checks, checkID))
	checks, _ = get(s.Health().State(api.HealthWarning, nil))
	s.say("warning", names(checks, checkID))
	services, _ := get(catalog.Services(nil))
	s.say("services", len(services["db"]), services["consul"] != nil)
	node, _ := get(catalog.Node("n1", nil))
	s.say("a node", node.Node.Address, len(node.Services), node.Services["db-1"].Port)
	none, _ := get(catalog.Node("none", nil))
	s.say("no node", none == nil)

	_, index := get(s.Health().Service("db", "", true, nil))
	waiting := start(func() []*api.ServiceEntry {
		for {
			entries, newer := get(s.Health().Service("db", "", true,
				&api.QueryOptions{WaitIndex: index, WaitTime: patience}))
			if len(entries) != 1 {
				return entries
			}
			index = newer
		}
	})
	s.say("watched, waits", waits(waiting))
	s.register(object{"Node": "n2", "SkipNodeUpdate": true, "Check": object{
		"Node": "n2", "CheckID": "db-2-up", "Name": "up", "Status": api.HealthPassing, "ServiceID": "db-2",
	}})
	s.say("woken by a check that passes", names(in(waiting), entryID))
	s.deregisterDatabases()
	entries, _ = get(s.Health().Service("db", "", false, nil))
	s.say("deregistered", len(entries))
}

func filters(s story) {
	s.registerDatabases()
	for _, filter := range []string{
		`Service.ID == "db-1"`,
		`Service.ID != "db-1" and Node.Meta.rack == "rn3"`,
		`"warning" in Service.Tags or "critical" in Service.Tags`,
		`not Checks is empty and Service.Port == 5432 and Node.Node matches "^n[12]$"`,
		`Service.Meta is empty`,
	} {
		entries, _ := get(s.Health().Service("db", "", false, &api.QueryOptions{Filter: filter}))
		s.say(filter, names(entries, entryID))
	}
	nodes, _ := get(s.Catalog().Nodes(&api.QueryOptions{Filter: `Node != "n1" and "rack" in Meta`}))
	s.say("nodes", names(nodes, func(node *api.Node) string { return node.Node }))
	in, _ := get(s.Catalog().Service("db", "", &api.QueryOptions{Filter: `ServiceTags contains "passing"`}))
	s.say("in the catalog", names(in, func(one *api.CatalogService) string { return one.ServiceID }))
	checks, _ := get(s.Health().State(api.HealthAny, &api.QueryOptions{Filter: `Status == "critical"`}))
	s.say("checks", names(checks, func(check *api.HealthCheck) string { return check.CheckID }))
	_, _, err := s.Catalog().Nodes(&api.QueryOptions{Filter: `Node ==`})
	s.refused("half a filter", err, "Failed to create boolean expression evaluator")
	_, _, err = s.Catalog().Nodes(&api.QueryOptions{Filter: `Colour == "red"`})
	s.refused("an unknown field", err, "Colour")
	s.deregisterDatabases()

	agent := s.Agent()
	for _, name := range []string{"one", "two"} {
		s.must(agent.ServiceRegister(&api.AgentServiceRegistration{
			Name: name, Tags: []string{"tag-" + name},
			Check: &api.AgentServiceCheck{TTL: "60s", Status: api.HealthPassing},
		}))
	}
	services, err := agent.ServicesWithFilter(`"tag-two" in Tags`)
	s.must(err)
	for id := range services {
		s.say("the agent's services", id)
	}
	local, err := agent.ChecksWithFilter(`ServiceName == "one"`)
	s.must(err)
	for id := range local {
		s.say("the agent's checks", id)
	}
	for _, name := range []string{"one", "two"} {
		s.must(agent.ServiceDeregister(name))
	}
}

func events(s story) {
	event := s.Event()
	fire := func(name, payload, node string) string {
		id, _, err := event.Fire(&api.UserEvent{Name: name, Payload: []byte(payload), NodeFilter: node}, nil)
		s.must(err)
		return id
	}
	seen := func(name string, count int) []*api.UserEvent {
		return until(func(events []*api.UserEvent) bool { return len(events) == count },
			func() []*api.UserEvent {
				events, _ := get(event.List(name, nil))
				return events
			})
	}
	id := fire("deploy", "version 2", "")
	for _, one := range seen("deploy", 1) {
		s.say("fired", one.ID == id, one.Name, one.Payload, one.NodeFilter, one.Version, one.LTime > 0)
	}
	_, index := get(event.List("deploy", nil))
	s.say("its index is its id's", index == event.IDToIndex(id))
	waiting := start(func() int {
		events, _ := get(event.List("deploy", &api.QueryOptions{WaitIndex: index, WaitTime: patience}))
		return len(events)
	})
	s.say("waits for another", waits(waiting))
	fire("other", "", "")
	s.say("of the same name", waits(waiting))
	fire("deploy", "version 3", "")
	s.say("woken", in(waiting))
	for _, one := range seen("deploy", 2) {
		s.say("in their order", one.Name, one.Payload)
	}
	fire("elsewhere", "", "no-such-node")
	fire("last", "", "")
	s.say("for another node", len(seen("last", 1)), len(seen("elsewhere", 0)))
	all, _ := get(event.List("", nil))
	s.say("all of them", names(all, func(one *api.UserEvent) string { return one.Name }))
}
