package rollout

import (
	"encoding/json"
	"fmt"

	"github.com/sluice-cd/sluice/environments"
)

// schema is the version of the form in which a State is saved. One that is older is read all the same; one that is newer
// is not, since nobody here knows what it says.
//
//	0  the policy as environments has it, in "policy"; "paused" for "stalled"
//	1  the Plan
const schema = 1

// plain is a State without its methods.
type plain State

// MarshalJSON says which form it is.
func (s State) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Schema int `json:"schema"`
		*plain
	}{schema, (*plain)(&s)})
}

// UnmarshalJSON reads the present form and those before it.
func (s *State) UnmarshalJSON(b []byte) error {
	var read State
	form := struct {
		Schema int                  `json:"schema"`
		Policy *environments.Policy `json:"policy"`
		Paused string               `json:"paused"`
		*plain
	}{plain: (*plain)(&read)}
	if err := json.Unmarshal(b, &form); err != nil {
		return err
	}
	switch {
	case form.Schema < 0 || form.Schema > schema:
		return fmt.Errorf("it has format %d, written by a newer Sluice; this one reads formats up to %d: run the newer one", form.Schema, schema)
	case form.Schema == 0:
		read.Stalled = form.Paused
		if form.Policy != nil {
			p := NewPlan(*form.Policy)
			read.Plan = &p
		}
	}
	if err := numbered(read); err != nil {
		return err
	}
	*s = read
	return nil
}

// lastNumber is the highest that an event may have, far from where counting on would overflow.
const lastNumber = 1 << 53

// numbered says what is wrong with a State's numbers, with which it could not tell its next event.
func numbered(s State) error {
	if s.LastSeq < 0 || s.LastSeq > lastNumber || s.Rollouts < 0 || s.Rollouts > lastNumber {
		return fmt.Errorf("lastSeq %d, rollouts %d: expected numbers from 0 to %d", s.LastSeq, s.Rollouts, int64(lastNumber))
	}
	for _, e := range s.Outbox {
		if e.Seq <= 0 || e.Seq > s.LastSeq {
			return fmt.Errorf("outbox: event %d: expected numbers from 1 to lastSeq, which is %d", e.Seq, s.LastSeq)
		}
	}
	return nil
}
