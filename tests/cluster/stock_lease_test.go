// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// lease grants one and puts a key on it.
func (s *stock) lease(key string) (id string) {
	s.t.Helper()
	for deadline := time.Now().Add(2 * stockWait); time.Now().Before(deadline); {
		granted := time.Now()
		id = strings.Fields(s.must("lease", "grant", fmt.Sprint(stockTTL)))[1]
		if s.putOn(key, id, granted.Add(stockTTL*time.Second)) {
			return id
		}
	}
	s.t.Fatalf("%s is not put before its lease is over", key)
	return ""
}

// putOn puts a key on a lease, which may be over before that succeeds, but not before its time.
func (s *stock) putOn(key, id string, least time.Time) bool {
	s.t.Helper()
	for !s.t.Failed() {
		x := s.etcdctl("put", key, "v", "--lease="+id)
		if x.exit() == 0 {
			return true
		}
		if strings.Contains(x.errors.String(), "requested lease not found") && time.Now().After(least) {
			break
		}
		s.excused(x)
	}
	return false
}

func (s *stock) keepAlive() *tool {
	return s.etcdctl("lease", "keep-alive", s.lease("kept"))
}

// checkKept comes when the leases left alone are over under a leader that was not killed: that of "kept", which is as
// long, lives of its keep-alives only.
func (s *stock) checkKept(x *tool) {
	s.t.Helper()
	n := strings.Count(x.out.String(), fmt.Sprintf("keepalived with TTL(%d)", stockTTL))
	if x.ended() || n < 5 {
		s.t.Errorf("keep-alive, ended %v:\n%s%s", x.ended(), x.out.String(), x.errors.String())
	}
	s.t.Logf("kept alive %d times", n)
	s.present("kept")
}

func (s *stock) present(key string) {
	s.t.Helper()
	if resp, err := s.client.Get(s.ctx, key); err != nil || len(resp.Kvs) != 1 {
		s.t.Errorf("%s, whose lease is kept alive: %v, %v", key, resp, err)
	}
}

// orphan makes a key on a lease that is left alone.
func (s *stock) orphan(key string) {
	s.t.Helper()
	granted := time.Now()
	s.lease(key)
	s.mu.Lock()
	s.left[key] = &orphan{least: granted.Add(stockTTL * time.Second)}
	s.mu.Unlock()
}

// pollLeft looks when the keys go. One that a new leader finds gets its whole time again.
func (s *stock) pollLeft() {
	defer s.work.Done()
	for !s.t.Failed() && (!s.quiet.Load() || s.remain() > 0) {
		s.mu.Lock()
		asked, killed := time.Now(), s.killed
		var keys []string
		for key := range s.left {
			keys = append(keys, key)
		}
		s.mu.Unlock()
		resp, err := s.client.Get(s.ctx, "left/", clientv3.WithPrefix())
		if err == nil {
			found := map[string]bool{}
			for _, kv := range resp.Kvs {
				found[string(kv.Key)] = true
			}
			s.note(keys, found, asked, killed)
		} else if !explained(err) {
			s.t.Errorf("get: an error that no fault explains: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// note judges what a read saw that began at a time when a leader had been killed and another one answered.
func (s *stock) note(keys []string, found map[string]bool, asked, killed time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range keys {
		o, now := s.left[key], time.Now()
		switch {
		case found[key] && !o.gone.IsZero():
			s.t.Errorf("%s is there again", key)
		case found[key]:
			if again := killed.Add(stockTTL * time.Second); again.After(o.least) && asked.After(killed) {
				o.least = again
			}
		case o.gone.IsZero():
			o.gone = now
			if now.Before(o.least) {
				s.t.Errorf("%s was gone %v too early", key, o.least.Sub(now))
			}
		}
	}
}

func (s *stock) remain() (count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.left {
		if o.gone.IsZero() {
			count++
		}
	}
	return count
}

// waitGone waits until the leases left alone are over, the last ones as long after there was a leader as they are long.
func (s *stock) waitGone(ready time.Time) {
	s.t.Helper()
	for s.remain() > 0 && !s.t.Failed() {
		if since := time.Since(ready); since > 2*stockTTL*time.Second+leaseLate+leaseSlow {
			s.t.Errorf("%d keys are there %v after the last election, on leases of %d s", s.remain(), since, stockTTL)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if since := time.Since(ready); since > stockTTL*time.Second+leaseLate {
		s.t.Logf("the last lease was over %v after the last election: a slow machine?", since)
	}
}
