package records

import "sync"

// end is how an id has ended, in Unix seconds.
type end struct {
	until int64 // when it would have ended by itself, and may be forgotten
	since int64 // what began after this has not ended; 0 or replaced: all of it has
}

// replaced is the since of an end by [Ended.Replace].
const replaced = -1

// and returns both ends of one id together, in whichever order they came.
func (how end) and(known end) end {
	how.until = max(how.until, known.until)
	switch {
	case how.since == 0 || known.since == 0:
		how.since = 0 // all of it
	case how.since < 0 || known.since < 0:
		how.since = replaced // and so is this
	default:
		how.since = max(how.since, known.since)
	}
	return how
}

// endings are the ends that are known, by their ids, which are evenly distributed. Each request reads them while they
// are learned by the million: so they are kept in parts, and no lock of a part is held for more than one id, but to
// forget what is over.
type endings [256]struct {
	mu    sync.RWMutex
	known map[ID]end
}

func (e *endings) get(id ID) (how end, ok bool) {
	part := &e[id[0]]
	part.mu.RLock()
	defer part.mu.RUnlock()
	how, ok = part.known[id]
	return how, ok
}

// note remembers an end. Several ends of one id add up.
func (e *endings) note(id ID, how end) {
	part := &e[id[0]]
	part.mu.Lock()
	defer part.mu.Unlock()
	if known, ok := part.known[id]; ok {
		how = how.and(known)
	} else if part.known == nil {
		part.known = make(map[ID]end)
	}
	part.known[id] = how
}

// remove forgets an id.
func (e *endings) remove(id ID) {
	part := &e[id[0]]
	part.mu.Lock()
	defer part.mu.Unlock()
	delete(part.known, id)
}

// each calls f with all that is known.
func (e *endings) each(f func(ID, end)) {
	for i := range e {
		part := &e[i]
		part.mu.RLock()
		for id, how := range part.known {
			f(id, how)
		}
		part.mu.RUnlock()
	}
}

// forget forgets what would have ended by itself before a time.
func (e *endings) forget(over int64) {
	for i := range e {
		part := &e[i]
		part.mu.Lock()
		for id, how := range part.known {
			if how.until < over {
				delete(part.known, id)
			}
		}
		part.mu.Unlock()
	}
}
