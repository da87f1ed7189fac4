package main

import (
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

const (
	rounds  = 10
	permits = 2
	stay    = 20 * time.Millisecond
)

// contend takes a lock and a permit again and again, as others do. The process that is in has a file in the
// folder of what it holds, so that everybody sees when there are too many.
func contend(client *api.Client, folder string) error {
	lock, err := client.LockOpts(&api.LockOptions{Key: "contended/lock", SessionTTL: "10s"})
	if err != nil {
		return err
	}
	failures := make(chan error, 1+permits)
	var all sync.WaitGroup
	all.Add(1)
	go func() {
		defer all.Done()
		failures <- repeatedly(folder+"/lock", 1, "go", func() (<-chan struct{}, error) {
			return lock.Lock(nil)
		}, lock.Unlock)
	}()
	for i := range permits {
		semaphore, err := client.SemaphoreOpts(&api.SemaphoreOptions{
			Prefix: "contended/semaphore", Limit: permits, SessionTTL: "10s",
		})
		if err != nil {
			return err
		}
		all.Add(1)
		go func() {
			defer all.Done()
			failures <- repeatedly(folder+"/semaphore", permits, fmt.Sprint("go-", i),
				func() (<-chan struct{}, error) { return semaphore.Acquire(nil) }, semaphore.Release)
		}()
	}
	all.Wait()
	close(failures)
	for err := range failures {
		if err != nil {
			return err
		}
	}
	return nil
}

// repeatedly enters, stays a little and leaves.
func repeatedly(
	folder string, limit int, name string,
	enter func() (<-chan struct{}, error), leave func() error,
) error {
	for range rounds {
		lost, err := enter()
		if err != nil {
			return err
		}
		if err := os.WriteFile(folder+"/"+name, nil, 0o600); err != nil {
			return err
		}
		inside, err := os.ReadDir(folder)
		if err != nil {
			return err
		}
		if len(inside) > limit {
			return fmt.Errorf("%s: too many are in: %v", folder, inside)
		}
		time.Sleep(stay)
		select {
		case <-lost:
			return fmt.Errorf("%s: %s lost it", folder, name)
		default:
		}
		if err := os.Remove(folder + "/" + name); err != nil {
			return err
		}
		if err := leave(); err != nil {
			return err
		}
	}
	return nil
}
