// SPDX-License-Identifier: Apache-2.0

// Package integration drives Cairn with stock clients and hostile ones: Go's clientv3, etcdctl, plain HTTP, broken
// messages, idle connections. Where etcd's behaviour is the yardstick, etcd 3.7.1 runs beside it and both must agree.
package integration

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cairn/tests/harness"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// shared servers are started once for all tests that leave them as they are or only add keys under their own names.
var shared struct {
	sync.Mutex
	servers map[harness.Kind]*harness.Server
	dir     string
}

func TestMain(m *testing.M) {
	if signal.Ignored(os.Interrupt) { // Then children would ignore it as well; not if it is caught.
		signal.Notify(make(chan os.Signal, 1), os.Interrupt)
	}
	code := m.Run()
	for _, s := range shared.servers {
		s.Close()
	}
	if shared.dir != "" {
		os.RemoveAll(shared.dir)
	}
	os.Exit(code)
}

func sharedServer(t *testing.T, kind harness.Kind) *harness.Server {
	t.Helper()
	var bin string
	if kind == harness.Cairn {
		bin = harness.CairnBin(t)
	} else {
		bin = harness.EtcdBin(t)
	}
	shared.Lock()
	defer shared.Unlock()
	if s := shared.servers[kind]; s != nil {
		if !s.Alive() {
			t.Fatalf("%s has ended in an earlier test\n%s", kind, s.LogTail(30))
		}
		return s
	}
	var err error
	if shared.dir == "" {
		if shared.dir, err = os.MkdirTemp("", "cairn-integration-"); err != nil {
			t.Fatal(err)
		}
		shared.servers = map[harness.Kind]*harness.Server{}
	}
	s, err := harness.New(harness.Options{Kind: kind, Bin: bin, Dir: filepath.Join(shared.dir, string(kind))})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.StartReady(); err != nil {
		t.Fatal(err)
	}
	shared.servers[kind] = s
	return s
}

// bothServers returns etcd and Cairn, or skips when there is no Cairn.
func bothServers(t *testing.T) (etcd, cairn *harness.Server) {
	t.Helper()
	cairn = sharedServer(t, harness.Cairn)
	return sharedServer(t, harness.Etcd), cairn
}

// newClient returns a stock Go client.
func newClient(t *testing.T, s *harness.Server) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{s.Addr()}, DialTimeout: 10 * time.Second, Logger: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// unique names keys so that tests on shared servers keep apart.
func unique(t *testing.T, format string, args ...any) string {
	return t.Name() + "/" + fmt.Sprintf(format, args...)
}
