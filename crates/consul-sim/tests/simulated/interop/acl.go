package main

import (
	"os"

	"github.com/hashicorp/consul/api"
)

func tokens(s story) {
	acl := s.ACL()
	policy := put(acl.PolicyCreate(&api.ACLPolicy{
		Name: "reader", Description: "reads what is open",
		Rules: `key_prefix "open/" { policy = "read" } service_prefix "web" { policy = "write" }`,
	}, nil))
	read, _ := get(acl.PolicyRead(policy.ID, nil))
	s.say("a policy", read.Name, read.Description, read.Rules == policy.Rules)
	policies, _ := get(acl.PolicyList(nil))
	listed := 0
	for _, entry := range policies {
		if entry.Name == "reader" || entry.Name == "global-management" {
			listed++
		}
	}
	s.say("listed beside the first one", listed)
	_, _, err := acl.PolicyCreate(&api.ACLPolicy{Name: "reader"}, nil)
	s.refused("the same name again", err, "already exists")

	token := put(acl.TokenCreate(&api.ACLToken{
		Description: "of a reader", Policies: []*api.ACLTokenPolicyLink{{Name: "reader"}}, Local: true,
	}, nil))
	s.say("a token", token.Description, token.Local, token.Policies[0].Name, token.Policies[0].ID == policy.ID)
	again, _ := get(acl.TokenRead(token.AccessorID, nil))
	s.say("read again", again.SecretID == token.SecretID, again.Description)
	entries, _ := get(acl.TokenList(nil))
	of := 0
	for _, entry := range entries {
		if entry.AccessorID == token.AccessorID {
			of++
		}
	}
	s.say("listed", of)

	done(s.KV().Put(&api.KVPair{Key: "open/k", Value: []byte("open")}, nil))
	done(s.KV().Put(&api.KVPair{Key: "closed/k", Value: []byte("closed")}, nil))
	reader := s.with(token.SecretID)
	self, _ := get(reader.ACL().TokenReadSelf(nil))
	s.say("its own token", self.AccessorID == token.AccessorID)
	s.say("may read", reader.value("open/k"))
	_, err = reader.KV().Put(&api.KVPair{Key: "open/k"}, nil)
	s.refused("may not write", err, "Permission denied")
	_, _, err = reader.KV().Get("closed/k", nil)
	s.refused("nor read elsewhere", err, "Permission denied")
	pairs, _, err := reader.KV().List("", nil)
	s.must(err)
	s.say("a list has what it may read", names(pairs, func(pair *api.KVPair) string { return pair.Key }))
	_, _, err = reader.ACL().TokenList(nil)
	s.refused("nor see tokens", err, "Permission denied")
	_, _, err = reader.Session().CreateNoChecks(nil, nil)
	s.refused("nor make sessions", err, "Permission denied")
	s.must(reader.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "web"}))
	err = reader.Agent().ServiceRegister(&api.AgentServiceRegistration{Name: "db"})
	s.refused("one service of two", err, "Permission denied")
	services, err := reader.Agent().Services()
	s.must(err)
	for id := range services {
		s.say("it sees", id)
	}
	s.must(reader.Agent().ServiceDeregister("web"))
	nobody := s.with("")
	_, _, err = nobody.KV().Get("open/k", nil)
	s.refused("without a token", err, "Permission denied")
	nodes, _ := get(nobody.Catalog().Nodes(nil))
	s.say("the nodes it sees", len(nodes))
	_, _, err = s.with("11111111-2222-3333-4444-555555555555").KV().Get("open/k", nil)
	s.refused("with an unknown one", err, "ACL not found")

	token.Description = "of a former reader"
	token.Policies = nil
	changed := put(acl.TokenUpdate(token, nil))
	s.say("changed", changed.Description, len(changed.Policies))
	_, _, err = reader.KV().Get("open/k", nil)
	s.refused("may read no more", err, "Permission denied")
	done(acl.TokenDelete(token.AccessorID, nil))
	_, _, err = reader.KV().Get("open/k", nil)
	s.refused("a deleted one", err, "ACL not found")
	done(acl.PolicyDelete(policy.ID, nil))
	done(s.KV().DeleteTree("open/", nil))
	done(s.KV().DeleteTree("closed/", nil))
}

// with is the same Consul seen with another token.
func (s story) with(token string) story {
	// The client takes the variable's token where its configuration has none.
	management := os.Getenv(api.HTTPTokenEnvName)
	s.must(os.Unsetenv(api.HTTPTokenEnvName))
	config := api.DefaultConfig()
	config.Token = token
	client, err := api.NewClient(config)
	s.must(err)
	s.must(os.Setenv(api.HTTPTokenEnvName, management))
	return story{client}
}
