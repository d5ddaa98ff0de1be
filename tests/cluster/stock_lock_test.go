// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// underLock runs with the lock. While "stay" is there it keeps it.
const underLock = `mkdir "$0/held" || echo "$ETCD_LOCK_KEY" >>"$0/two"
echo "$ETCD_LOCK_KEY" >>"$0/turns"
while [ -e "$0/stay" ] && kill -0 $PPID; do : >"$0/stays"; sleep 0.05; done
rmdir "$0/held"`

// lockThroughKill lets some run a command under a lock again and again. While one of them has it and all others wait for
// it the leader dies. None of these calls is a write under way, so each must get the lock then.
func (s *stock) lockThroughKill(n int) {
	s.t.Helper()
	name, dir := fmt.Sprintf("lock-%d", n), filepath.Join(s.dir, fmt.Sprint(n))
	s.touch(dir, "")
	var stop atomic.Bool
	var working sync.WaitGroup
	for range lockers {
		s.work.Add(1)
		working.Add(1)
		go func() {
			defer s.work.Done()
			defer working.Done()
			for !stop.Load() && !s.t.Failed() {
				x := s.etcdctl("lock", name, "--ttl=10", "--", "sh", "-c", underLock, dir)
				if x.exit() != 0 && !s.t.Failed() {
					s.excused(x)
				}
			}
		}()
	}
	s.until("the lock was not got", func() bool { return s.turns(dir) >= lockers })
	s.touch(dir, "stay")
	s.until("nobody has the lock and all others wait", func() bool {
		_, err := os.Stat(filepath.Join(dir, "stays"))
		return err == nil && s.count(name+"/") >= lockers
	})
	s.kill()
	before := s.turns(dir)
	stop.Store(true)
	if err := os.Remove(filepath.Join(dir, "stay")); err != nil {
		s.t.Fatal(err)
	}
	s.until("those who waited do not get the lock", func() bool { return s.turns(dir) >= before+lockers-1 })
	working.Wait()
	if two, err := os.ReadFile(filepath.Join(dir, "two")); err == nil {
		s.t.Errorf("%s came in while another one had the lock", two)
	}
}

// touch makes a folder or a file in it.
func (s *stock) touch(dir, file string) {
	s.t.Helper()
	err := os.MkdirAll(dir, 0o755)
	if err == nil && file != "" {
		err = os.WriteFile(filepath.Join(dir, file), nil, 0o644)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stock) turns(dir string) int {
	text, _ := os.ReadFile(filepath.Join(dir, "turns"))
	return strings.Count(string(text), "\n")
}

func (s *stock) count(prefix string) int64 {
	s.t.Helper()
	resp, err := s.client.Get(s.ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly())
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.Count
}

// stand lets one more stand for election.
func (s *stock) stand() {
	s.t.Helper()
	count := s.count("top/")
	for {
		c := &candidate{name: fmt.Sprintf("candidate-%d", len(s.elect))}
		c.tool = s.etcdctl("elect", "top", c.name)
		s.until(c.name+" does not stand", func() bool { return c.ended() || s.count("top/") > count })
		if !c.ended() {
			s.elect = append(s.elect, c)
			return
		}
		s.excused(c.tool)
	}
}

// leading are those who have won and were not told to resign.
func (s *stock) leading() (list []*candidate) {
	for _, c := range s.elect {
		if !c.told && strings.Contains(c.out.String(), c.name) {
			list = append(list, c)
		}
	}
	return list
}

// wins waits until one has won and the listener says so.
func (s *stock) wins() {
	s.t.Helper()
	s.until("nobody wins", func() bool { return len(s.leading()) > 0 })
	name := s.leading()[0].name
	s.winner = append(s.winner, name)
	s.until("the listener does not hear of "+name, func() bool {
		runs := s.heard()
		last := runs[len(runs)-1]
		return len(last) > 0 && last[len(last)-1].who == name
	})
}

// resign lets the one leader resign and another one stand.
func (s *stock) resign() {
	s.t.Helper()
	leading := s.leading()
	if len(leading) != 1 || leading[0].name != s.winner[len(s.winner)-1] || leading[0].ended() {
		s.t.Fatalf("%d lead, %s was elected", len(leading), s.winner[len(s.winner)-1])
	}
	c := leading[0]
	c.told = true
	c.cmd.Process.Signal(syscall.SIGINT)
	if c.exit() != 0 {
		s.excused(c.tool)
		key, _, _ := strings.Cut(c.out.String(), "\n")
		if _, err := s.client.Delete(s.ctx, key); err != nil {
			s.t.Fatal(err)
		}
	}
	s.wins()
	s.stand()
}

// heard is what the listener's runs have printed.
func (s *stock) heard() (runs [][]announced) {
	s.t.Helper()
	for _, lines := range s.linesOf("listen") {
		list, err := byListener(lines)
		if err != nil {
			s.t.Fatal(err)
		}
		runs = append(runs, list)
	}
	return runs
}

func (s *stock) checkElection() {
	s.t.Helper()
	if n := len(s.leading()); n != 1 {
		s.t.Errorf("%d lead", n)
	}
	if err := checkWinners(s.heard(), s.winner); err != nil {
		s.t.Error(err)
	}
	s.t.Logf("won by %v", s.winner)
}
