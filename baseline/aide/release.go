package aide

import "strings"

// Release is the AIDE whose reports and exit codes a [Report] gives.
type Release string

// The releases: Debian bookworm's (0.18.3-1+deb12u4 and later, control characters
// escaped) and trixie's (0.19.1-2+deb13u6).
const (
	Release018 Release = "0.18.3"
	Release019 Release = "0.19.1"
)

// columns are the attributes that the release's summaries have letters for.
func (r Release) columns() []column {
	if r == Release018 {
		return columns[:len(columns)-1] // file system types came with 0.19
	}
	return columns
}

// Legend says what the letters of a report mean.
func (r Release) Legend() string {
	letters, last := "YlZbpugamcinHAXSEC", "C  capabilities\n"
	if r != Release018 {
		letters, last = letters+"F", "C  capabilities       F  file system type (not kept)\n"
	}
	return strings.NewReplacer("LETTERS", letters, "LAST\n", last).Replace(legend)
}

const legend = `legend: LETTERS: path
  Y  type now: f file, d directory, l symbolic link, c character device, b block device, p FIFO, s socket
  l  link target      Z  size: > grew, < shrank     b  blocks (not kept)   p  permissions
  u  owner            g  group                      a  accessed (not kept) m  modified
  c  inode changed    i  inode number               n  number of links     H  content (checksums)
  A  ACL              X  extended attributes        S  SELinux context     E  attributes of lsattr
  LAST
  .  (=) is as it was; a blank is not compared; + or - came or went; : is not reported
`
