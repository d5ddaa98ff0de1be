// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// joins starts members that don't fit: each must end by itself and say why.
func joins(s *script) {
	m0 := s.member(0)
	list := func() []*pb.Member {
		resp, err := m0.Client().MemberList(s.ctx(), &pb.MemberListRequest{Linearizable: true})
		s.must(err)
		return resp.Members
	}
	peers := func(members []*pb.Member) string {
		var words []string
		for _, m := range members {
			words = append(words, m.Name+"="+m.PeerURLs[0])
		}
		return strings.Join(words, ",")
	}
	try := func(name, phrase, state, cluster string) {
		m := s.c.Place(m0.Kind)
		m.Args = []string{"--name=" + m.Name, "--initial-advertise-peer-urls=" + m.PeerURL(),
			"--initial-cluster=" + strings.ReplaceAll(cluster, "MYSELF", m.Name+"="+m.PeerURL()),
			"--initial-cluster-state=" + state}
		s.must(m.Start())
		s.say(s.waitExit(m), "%s, its process", name)
		s.say(s.logged(m, phrase), "and")
	}
	known := peers(list())
	try("a member that was not added", "member count is unequal", "existing", known+",MYSELF")
	try("a member of whom one other is missing", "PeerURLs: no match found for existing member", "existing",
		peers(list()[:2])+",MYSELF")
	try("a member that knows nobody", "cannot fetch cluster info from peer urls: could not retrieve cluster information "+
		"from the given URLs", "existing", "other=http://127.0.0.1:1,MYSELF")

	// A member comes back without its data and says that the cluster is new.
	m2 := s.member(2)
	s.c.Kill(m2)
	s.must(os.RemoveAll(m2.DataDir()))
	s.must(m2.Start())
	s.say(s.waitExit(m2), "a member without its data, its process")
	s.say(s.logged(m2, "has already been bootstrapped"), "and")
	s.listThrough(m0)
}
