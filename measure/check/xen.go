package check

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// XenSource gives images of Xen.
type XenSource interface {
	// Xen returns the image with a build-id, or an error that says why there is
	// none, such as [kernel.ErrOtherBuild].
	Xen(buildID string) (*xen.Image, error)
}

// Remarks of the checks of a Xen.
var (
	errNoXenImage = errors.New("no image of Xen to compare with")
	errOtherKind  = errors.New("it is a check of another kind of target")
)

// xenChecks are the checks of a target whose CPUs run Xen. The kernel of its
// first domain is a target of its own, which they do not measure.
func xenChecks() []check {
	checks := []check{
		xenTextCheck(),
		xenRodataCheck(),
		xenTablesCheck(),
		xenHypercallsCheck(),
		xenRegistersCheck(),
		xenMSRsCheck(),
		xenIDTCheck(),
		xenPageTablesCheck(),
		xenDomainsCheck(),
	}
	for i := range checks {
		checks[i].kind = measure.Xen
	}
	return checks
}

// profileXen makes the profile of a Xen.
func (c *collector) profileXen() (err error) {
	if c.xen, err = xen.NewProfile(c.machine.Memory(), c.registers); err == nil {
		c.root = c.xen.Space
	}
	return err
}

// xenImage returns the image that the target should run.
func (j *judging) xenImage() (*xen.Image, error) {
	if j.refs.Xen == nil {
		return nil, errNoXenImage
	}
	return j.refs.Xen.Xen(j.obs.Kernel.BuildID)
}

// xenBytes returns what a region of the target has at [from, to); nil if bytes
// are asked for.
func (j *judging) xenBytes(r *region, from, to mem.Virt) ([]byte, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	b, ok := j.read(r, from, int(to-from))
	if !ok {
		return nil, fmt.Errorf("%s [%v, %v) could not be read whole", r.Name, from, to)
	}
	return b, nil
}

// symbolOfXen names an address by the target's own table.
func (c *collector) symbolOfXen(at mem.Virt) string {
	if name, offset, ok := c.xen.Lookup(at); ok {
		return withOffset(name, offset)
	}
	return ""
}
