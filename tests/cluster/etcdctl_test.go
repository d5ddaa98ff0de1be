// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"sort"
	"strings"

	"cairn/tests/harness"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// throughEtcdctl does the usual things with the usual program.
func throughEtcdctl(s *script) {
	m0, m1 := s.member(0), s.member(1)
	both := []*harness.Member{m0, m1}
	s.say(sortLines(s.plain(s.etcdctl(both, "member", "list"))), "member list")
	s.say(s.etcdctl(both, "member", "add", "x"), "member add without addresses")
	s.say(s.etcdctl(both, "member", "add", "x", "--peer-urls=foo"), "member add of a bad address")
	s.say(s.etcdctl(both, "member", "add", "x", "--peer-urls="+m1.PeerURL()), "member add of a known address")
	s.say(s.etcdctl(both, "member", "remove", "abc"), "member remove of nobody")
	s.say(s.etcdctl(both, "member", "remove", "xyz"), "member remove of nonsense")
	s.say(s.etcdctl(both, "member", "promote", "abc"), "member promote of nobody")
	s.say(s.etcdctl(both, "member", "promote", fmt.Sprintf("%x", m1.ID)), "member promote of a voter")
	s.say(s.etcdctl(both, "member", "update", "abc", "--peer-urls=http://127.0.0.1:1"), "member update of nobody")
	s.say(s.etcdctl(both, "member", "update", fmt.Sprintf("%x", m1.ID), "--peer-urls="+m1.PeerURL()), "member update")
	s.say(s.etcdctl(both[:1], "move-leader", "abc"), "move-leader to nobody")
	s.say(s.etcdctl(both[1:], "move-leader", fmt.Sprintf("%x", m0.ID)), "move-leader without the leader")
	s.say(s.etcdctl(both, "move-leader", fmt.Sprintf("%x", m1.ID)), "move-leader")
	s.c.WaitLeader()
	s.say(healths(s, both), "endpoint health")

	fresh := s.c.Place(m0.Kind)
	err := s.patiently(func() error {
		text := s.etcdctl(both, "member", "add", fresh.Name, "--learner", "--peer-urls="+fresh.PeerURL())
		if strings.Contains(text, "unhealthy cluster") {
			return fmt.Errorf("unhealthy cluster")
		}
		s.say(hidePeers(s.plain(text)), "member add --learner")
		return nil
	})
	s.must(err)
	list, err := m0.Client().MemberList(s.ctx(), &pb.MemberListRequest{Linearizable: true})
	s.must(err)
	for _, m := range list.Members {
		if m.IsLearner {
			fresh.ID = m.ID
		}
	}
	s.say(sortLines(s.plain(s.etcdctl(both, "member", "list"))), "member list")
	s.say(s.etcdctl(both, "member", "promote", fmt.Sprintf("%x", fresh.ID)), "member promote too early")
	s.say(s.etcdctl(both, "member", "remove", fmt.Sprintf("%x", fresh.ID)), "member remove")
	s.say(sortLines(s.plain(s.etcdctl(both, "member", "list"))), "member list")
}

// healths asks each endpoint; the command's own output holds times.
func healths(s *script, members []*harness.Member) string {
	var words []string
	for _, m := range members {
		text := s.etcdctl([]*harness.Member{m}, "endpoint", "health")
		words = append(words, fmt.Sprint(m.Name, " healthy: ", strings.Contains(text, "is healthy: successfully committed")))
	}
	return strings.Join(words, ", ")
}

func sortLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i, line := range lines { // The order is that of ids, which differ.
		if _, rest, ok := strings.Cut(line, ", "); ok {
			lines[i] = rest
		}
	}
	sort.Strings(lines)
	return "\n" + strings.Join(lines, "\n")
}

// hidePeers sorts the members in ETCD_INITIAL_CLUSTER.
func hidePeers(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		if rest, ok := strings.CutPrefix(line, `ETCD_INITIAL_CLUSTER="`); ok {
			peers := strings.Split(strings.TrimSuffix(rest, `"`), ",")
			sort.Strings(peers)
			lines[i] = `ETCD_INITIAL_CLUSTER="` + strings.Join(peers, ",") + `"`
		}
	}
	return strings.Join(lines, "\n")
}
