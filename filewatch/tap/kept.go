package tap

import "errors"

var errKept = errors.New("what is kept of the last look is damaged")
