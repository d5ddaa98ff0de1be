// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sort"
	"time"

	"github.com/anishathalye/porcupine"
)

// The second checker knows nothing of revisions. It takes each key by itself (a history of independent objects is
// linearizable exactly if that of each is), looks at what calls did to it and saw of it, and searches for an order
// that respects the calls' times and makes every answer right.

// searchLimit bounds the search for one key's order. A history that is all right takes milliseconds.
const searchLimit = 60 * time.Second

// touch is what one call did to one key and saw of it.
type touch struct {
	op       *operation
	write    bool
	value    string // What it put; "" removes.
	guarded  bool
	expected string // By the guard.
	held     bool   // Whether the write took place.
	saw      *string
	found    *bool // Whether a removal found the key.
}

// touched says what an operation did to a key; false when nothing that matters.
//
// An operation without an answer was made or was not. If a value of it was ever seen, it was. A removal leaves no
// value behind; it may always have been made, at the latest at the very end, where nobody sees it.
func (o *operation) touched(key string, seen map[string]bool) (touch, bool) {
	t := touch{op: o, held: true}
	mine, puts, made := false, false, false
	if o.guard != nil && o.guard.key == key {
		t.guarded, t.expected, mine = true, o.guard.seen.value, true
	}
	for _, c := range o.changes {
		puts = puts || c.value != ""
		made = made || seen[c.value]
		if c.key == key {
			t.write, t.value, mine = true, c.value, true
		}
	}
	if !o.answered {
		return t, mine && len(o.changes) > 0 && (made || !puts)
	}
	t.held = o.held
	if v, ok := o.saw[key]; ok {
		t.saw, mine = &v.value, true
	}
	if found, ok := o.removed[key]; ok && o.held {
		t.found = &found
	}
	return t, mine && !o.serializable
}

// step answers porcupine: can this call take place in this state, and what is the state then? The state is the key's
// value, "" when it does not exist.
func step(s, input, _ any) (bool, any) {
	t, value := input.(touch), s.(string)
	if t.saw != nil && *t.saw != value || t.found != nil && *t.found != (value != "") {
		return false, s
	}
	if t.guarded && (value == t.expected) != t.held {
		return false, s
	}
	if t.write && t.held {
		value = t.value
	}
	return true, value
}

var oneKey = porcupine.Model{
	Init: func() any { return "" },
	Step: step,
	DescribeOperation: func(input, _ any) string {
		return input.(touch).op.String()
	},
}

// checkLinear judges the keys that did not exist when the history began. Values that were seen from outside of it,
// in the record of revisions, are given too.
func checkLinear(ops []*operation, alsoSeen map[string]bool) error {
	seen, keys := map[string]bool{}, map[string]bool{}
	for value := range alsoSeen {
		seen[value] = true
	}
	for _, o := range ops {
		for key, v := range o.saw {
			keys[key] = true
			seen[v.value] = true
		}
		for _, c := range o.changes {
			keys[c.key] = true
		}
		if o.wrote() {
			for _, c := range o.changes {
				seen[c.value] = true
			}
		}
	}
	delete(seen, "")
	var errs []error
	for key := range keys {
		errs = append(errs, checkKey(key, ops, seen))
	}
	return errors.Join(errs...)
}

func checkKey(key string, ops []*operation, seen map[string]bool) error {
	var list []porcupine.Operation
	for _, o := range ops {
		t, ok := o.touched(key, seen)
		if !ok {
			continue
		}
		end := o.ret
		if !o.answered {
			end = math.MaxInt64
		}
		list = append(list, porcupine.Operation{ClientId: o.client, Input: t, Call: o.call, Return: end})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Call < list[j].Call })
	switch result := porcupine.CheckOperationsTimeout(oneKey, list, searchLimit); result {
	case porcupine.Ok:
		return nil
	case porcupine.Unknown:
		return fmt.Errorf("key %s: no order of %d calls found in %v", key, len(list), searchLimit)
	default:
		return fmt.Errorf("key %s: no order explains what %d calls saw%s", key, len(list), picture(list))
	}
}

// picture leaves porcupine's drawing of a history behind when CAIRN_KEEP asks for it.
func picture(list []porcupine.Operation) string {
	if os.Getenv("CAIRN_KEEP") == "" {
		return ""
	}
	file, err := os.CreateTemp("", "cairn-history-*.html")
	if err != nil {
		return ""
	}
	defer file.Close()
	_, info := porcupine.CheckOperationsVerbose(oneKey, list, searchLimit)
	if porcupine.Visualize(oneKey, info, file) != nil {
		return ""
	}
	return "; drawn in " + file.Name()
}
