package check

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// linux.tables: the tables for unwinding stacks (ORC) and for BUG and WARN are
// those of the image. Exception tables are part of linux.rodata.
//
// Proves: that a trap or an unwinder is not led elsewhere through them. Trusts:
// the image. They lie in writable data, so an attacker needs no mapping changed
// to write there. That a WARN_ONCE has warned is no difference.
const tablesName = "linux.tables"

func tablesCheck() check {
	return check{name: tablesName, bulk: 2, collect: collectTables, judge: judgeTables, memo: true}
}

func collectTables(c *collector) (any, measure.Coverage, error) {
	var regions []region
	var coverage measure.Coverage
	for _, names := range kernel.TableNames() {
		from, ok1 := c.profile.Symbol(names[0])
		to, ok2 := c.profile.Symbol(names[1])
		if !ok1 || !ok2 {
			continue
		}
		r, err := c.region(names[0], from, to)
		if err != nil {
			return nil, coverage, err
		}
		coverage.Bytes += int64(to - from)
		coverage.Objects++
		regions = append(regions, r)
	}
	return regions, coverage, nil
}

func judgeTables(j *judging, raw json.RawMessage, out *measure.Check) error {
	var regions []region
	if err := decode(raw, &regions); err != nil {
		return err
	}
	want, err := j.expected()
	if err != nil {
		return err
	}
	byName := make(map[string]*region)
	for i := range regions {
		if err := regions[i].validate(); err != nil {
			return err
		}
		byName[regions[i].Name] = &regions[i]
	}
	tables := want.env.Tables()
	if len(tables) == 0 {
		return errors.New("the image has none of these tables")
	}
	for _, t := range tables {
		r := byName[t.Name]
		if r == nil {
			return fmt.Errorf("%s was not read", t.Name)
		}
		key := j.pageKey(tablesName, DigestOf(r.Digests), fmt.Appendf(nil, "%s %v", t.Name, r.Start))
		if j.accepted(key) {
			continue
		}
		seen, ok := j.read(r, t.Start, t.Size())
		if !ok {
			return fmt.Errorf("%s at %v could not be read", t.Name, t.Start)
		}
		if seen == nil {
			continue // its bytes are asked for
		}
		differences := t.Compare(seen)
		out.Findings = append(out.Findings, j.differences(differences)...)
		if len(differences) == 0 {
			j.accept(key)
		}
	}
	return nil
}
