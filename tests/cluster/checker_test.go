// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// sound makes a history as a right cluster of seven clients would: calls overlap, some get no answer, of those some
// are made late and some never. It returns the record too.
type sound struct {
	rng    *rand.Rand
	now    int64
	ops    []*operation
	record *record
	number int
}

func newSound(seed uint64) *sound {
	return &sound{rng: rand.New(rand.NewPCG(seed, 5)), now: 1000,
		record: &record{base: 7, states: []state{{}}}}
}

var soundKeys = []string{"a", "b", "c"}

// make carries an operation out at a moment of its own, now or later than others.
func (s *sound) make(o *operation, unknown, lost bool) {
	s.number++
	o.number, o.client, o.held = s.number, s.number%7, true
	// The moments of effects ascend by 10; calls begin up to 40 before and end up to 40 after.
	s.now += 10
	o.call, o.ret = s.now-1-s.rng.Int64N(40), s.now+1+s.rng.Int64N(40)
	s.ops = append(s.ops, o)
	if lost {
		return
	}
	before := s.record.at(s.record.head())
	next, changed := o.apply(before, s.record.head()+1)
	if changed {
		s.record.states = append(s.record.states, next)
	}
	if unknown {
		return
	}
	o.answered, o.revision, o.held = true, s.record.head(), o.holds(before)
	for key := range o.saw {
		o.saw[key] = before[key]
	}
	for _, c := range o.changes {
		if c.value == "" && o.held {
			o.removed[c.key] = before[c.key].value != ""
		}
	}
}

// operation returns a random one without an answer.
func (s *sound) operation() *operation {
	key, other := soundKeys[s.rng.IntN(3)], ""
	for other = key; other == key; other = soundKeys[s.rng.IntN(3)] {
	}
	value := func() string { return fmt.Sprintf("v%d-%d", s.number, s.rng.Uint32()) }
	o := &operation{saw: map[string]version{}, removed: map[string]bool{}, what: "op"}
	now := s.record.at(s.record.head())
	switch s.rng.IntN(6) {
	case 0:
		o.saw[key], o.saw[other] = version{}, version{}
	case 1:
		o.changes = []change{{key, ""}}
	case 2:
		o.guard = &guard{key, now[key]}
		o.saw[key] = version{}
		o.changes = []change{{key, value()}}
	case 3:
		o.guard = &guard{key, version{value: "never", mod: 1}}
		o.changes = []change{{other, value()}}
		o.saw[key] = version{}
	case 4:
		o.changes = []change{{key, value()}, {other, ""}}
	default:
		o.changes = []change{{key, value()}}
	}
	return o
}

func (s *sound) fill(count int) *sound {
	for range count {
		o := s.operation()
		unknown := len(o.changes) > 0 && s.rng.IntN(12) == 0
		s.make(o, unknown, unknown && s.rng.IntN(2) == 0)
	}
	return s
}

// verdicts runs both checkers.
func (s *sound) verdicts() (byRevision, byOrder error) {
	_, byRevision = checkRevisions(s.record, s.ops)
	return byRevision, checkLinear(s.ops, s.record.values())
}

func TestCheckersAcceptWhatIsRight(t *testing.T) {
	for seed := uint64(0); seed < 60; seed++ {
		a, b := newSound(seed).fill(300).verdicts()
		if a != nil || b != nil {
			t.Fatalf("seed %d: %v; %v", seed, a, b)
		}
	}
}

// find returns an answered operation somewhere behind the middle that fits.
func (s *sound) find(fits func(*operation) bool) *operation {
	for _, o := range s.ops[len(s.ops)/2:] {
		if o.answered && fits(o) {
			return o
		}
	}
	return nil
}

func puts(o *operation) bool { return o.wrote() && o.changes[0].value != "" && o.guard == nil }

func reads(o *operation) bool { return len(o.changes) == 0 && len(o.saw) > 0 }

// planted are errors of a cluster. Each takes a right history and spoils it; false when it has no place for it. The
// revision checker must refuse all of them. The search for an order must refuse at least so many of twenty: it does
// not know revisions, and an operation without an answer can excuse what would be wrong otherwise.
var planted = []struct {
	name       string
	spoil      func(*sound) bool
	byRevision string // What the message must hold.
	byOrder    int
}{
	{"a stale read, told honestly", func(s *sound) bool {
		o := s.find(reads)
		return o != nil && s.stale(o)
	}, "stale", 15},
	{"a stale read under a new revision", func(s *sound) bool {
		o := s.find(reads)
		if o == nil {
			return false
		}
		revision := o.revision
		ok := s.stale(o)
		o.revision = revision
		return ok
	}, "saw", 15},
	{"a lost write", func(s *sound) bool {
		s.put("a", "before")
		s.put("a", "lost")
		s.forget()
		s.read("a")
		return true
	}, "lost", 20},
	{"a lost write whose revision another got", func(s *sound) bool {
		s.put("a", "before")
		s.put("a", "lost")
		s.forget()
		s.put("b", "another")
		s.read("a")
		return true
	}, "given twice", 20},
	{"a revision given twice", func(s *sound) bool {
		o := s.find(puts)
		p := s.last(puts)
		if o == nil || p == o {
			return false
		}
		p.revision = o.revision
		return true
	}, "given twice", 0},
	{"a write made twice", func(s *sound) bool {
		o := s.find(puts)
		if o == nil {
			return false
		}
		next, _ := o.apply(s.record.at(s.record.head()), s.record.head()+1)
		s.record.states = append(s.record.states, next)
		s.read(o.changes[0].key)
		return true
	}, "by no write", 20},
	{"a write without an answer made twice", func(s *sound) bool {
		o := &operation{what: "twice", changes: []change{{"a", "twice"}}}
		s.make(o, true, false)
		s.read("a")
		s.put("a", "between")
		s.read("a")
		next, _ := o.apply(s.record.at(s.record.head()), s.record.head()+1)
		s.record.states = append(s.record.states, next)
		s.read("a")
		return true
	}, "by no write", 20},
	{"a write from nowhere", func(s *sound) bool {
		o := &operation{changes: []change{{"a", "nowhere"}}}
		next, _ := o.apply(s.record.at(s.record.head()), s.record.head()+1)
		s.record.states = append(s.record.states, next)
		s.read("a")
		return true
	}, "by no write", 20},
	{"a write before it was sent", func(s *sound) bool {
		o := s.find(func(o *operation) bool { return puts(o) && s.isRead(o) })
		if o == nil {
			return false
		}
		o.call = s.now + 1000
		o.ret = o.call + 1
		return true
	}, "sent only at", 20},
	{"a read of something uncommitted", func(s *sound) bool {
		o := s.find(reads)
		if o == nil {
			return false
		}
		for key, v := range o.saw {
			v.value = "uncommitted"
			o.saw[key] = v
		}
		return true
	}, "saw", 20},
	{"a serializable read of something uncommitted", func(s *sound) bool {
		s.read("a")
		o := s.ops[len(s.ops)-1]
		o.serializable = true
		o.saw["a"] = version{value: "uncommitted", create: 9, mod: 9, version: 1}
		return true
	}, "saw", 0},
	{"a torn transaction", func(s *sound) bool {
		o := s.find(func(o *operation) bool { return o.wrote() && len(o.changes) == 2 && o.removed[o.changes[1].key] })
		if o == nil {
			return false
		}
		for _, st := range s.record.states[o.revision-s.record.base:] {
			delete(st, o.changes[0].key)
		}
		return true
	}, "should be", 0},
	{"a guard that held wrongly", func(s *sound) bool {
		o := s.find(func(o *operation) bool { return o.guard != nil && o.wrote() })
		if o == nil {
			return false
		}
		o.guard.seen = version{value: "other", mod: 1, create: 1, version: 1}
		return true
	}, "changes nothing", 20},
	{"a guard that should have held", func(s *sound) bool {
		o := s.find(func(o *operation) bool { return o.guard != nil && !o.held && o.saw[o.guard.key].value != "" })
		if o == nil {
			return false
		}
		o.guard.seen = o.saw[o.guard.key]
		return true
	}, "guard held", 20},
	{"a removal that missed its key", func(s *sound) bool {
		o := s.find(func(o *operation) bool { return len(o.changes) == 1 && o.removed[o.changes[0].key] })
		if o == nil || s.unknownRemoval(o.changes[0].key) {
			return false
		}
		o.removed[o.changes[0].key] = false
		return true
	}, "by no write", 5},
	{"a client's revision that falls", func(s *sound) bool {
		s.read("a")
		p := s.ops[len(s.ops)-1]
		s.read("a")
		o := s.ops[len(s.ops)-1]
		o.client, o.call, o.ret = p.client, p.ret+1, p.ret+2
		o.revision--
		o.saw["a"] = s.record.at(o.revision)["a"]
		return true
	}, "revision fell", 0},
	{"a wrong version counter", func(s *sound) bool {
		o := s.find(func(o *operation) bool { return reads(o) && o.saw[sortedKeys(o.saw)[0]].value != "" })
		if o == nil {
			return false
		}
		key := sortedKeys(o.saw)[0]
		v := o.saw[key]
		v.version++
		o.saw[key] = v
		return true
	}, "saw", 0},
}

// stale makes a read show, honestly, an older revision: that before a write which had been answered when the read
// was called, and which replaced a value that can't have come back.
func (s *sound) stale(o *operation) bool {
	key := sortedKeys(o.saw)[0]
	var known *operation
	for _, p := range s.ops {
		if p.answered && p.ret < o.call && p.wrote() && p.changes[0].key == key &&
			(known == nil || p.revision > known.revision) {
			known = p
		}
	}
	if known == nil || s.record.at(known.revision - 1)[key].value == "" {
		return false
	}
	o.revision = known.revision - 1
	for k := range o.saw {
		o.saw[k] = s.record.at(o.revision)[k]
	}
	return true
}

// put puts a key and waits for all that is under way.
func (s *sound) put(key, value string) {
	s.now += 100
	s.make(&operation{what: "put", changes: []change{{key, value}}}, false, false)
	s.now += 100
}

// forget takes the last revision out of the record.
func (s *sound) forget() { s.record.states = s.record.states[:len(s.record.states)-1] }

func (s *sound) last(fits func(*operation) bool) (found *operation) {
	for _, o := range s.ops {
		if o.answered && fits(o) {
			found = o
		}
	}
	return found
}

func (s *sound) read(keys ...string) {
	o := &operation{what: "get", saw: map[string]version{}, removed: map[string]bool{}}
	for _, key := range keys {
		o.saw[key] = version{}
	}
	s.now += 100
	s.make(o, false, false)
	s.now += 100
}

// unknownRemoval says whether a removal without an answer could have removed the key.
func (s *sound) unknownRemoval(key string) bool {
	for _, o := range s.ops {
		if !o.answered && len(o.changes) == 1 && o.changes[0] == (change{key, ""}) {
			return true
		}
	}
	return false
}

// isRead says whether some call saw what the operation put, and had ended by now.
func (s *sound) isRead(o *operation) bool {
	for _, p := range s.ops {
		if p.answered && p != o && p.saw[o.changes[0].key].value == o.changes[0].value {
			return true
		}
	}
	return false
}

func TestCheckersRefuseWhatIsWrong(t *testing.T) {
	for _, x := range planted {
		t.Run(strings.ReplaceAll(x.name, " ", "-"), func(t *testing.T) {
			tried, seenByOrder := 0, 0
			for seed := uint64(1); tried < 20 && seed < 2000; seed++ {
				s := newSound(seed).fill(120)
				if !x.spoil(s) {
					continue
				}
				tried++
				byRevision, byOrder := s.verdicts()
				if byRevision == nil || !strings.Contains(byRevision.Error(), x.byRevision) {
					t.Fatalf("seed %d: want an error with %q, got %v", seed, x.byRevision, byRevision)
				}
				if byOrder != nil {
					seenByOrder++
				}
			}
			if tried < 20 {
				t.Fatalf("only %d histories had a place for it", tried)
			}
			if seenByOrder < x.byOrder {
				t.Errorf("the search for an order refused %d of %d", seenByOrder, tried)
			}
		})
	}
}

// Two leaders in one term, and answers that are no history's fault, have checks of their own.
func TestLeadersRefusesTwoOfOneTerm(t *testing.T) {
	l := newLeaders()
	for _, x := range []struct {
		term, leader uint64
		good         bool
	}{{2, 10, true}, {3, 11, true}, {2, 10, true}, {3, 11, true}, {4, 10, true}, {3, 10, false}} {
		if err := l.note(x.term, x.leader); (err == nil) != x.good {
			t.Errorf("term %d leader %d: %v", x.term, x.leader, err)
		}
	}
}
