package records

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
)

// The contract of certmagic's List leaves much open, and engines differ in all of it: some refuse a
// recursive listing, some list recursively whatever is asked, some ignore the prefix or compare it as
// text, some show folders and some do not, with a slash at the end or without, below a prefix of
// their own, or with a backslash as the separator. The functions below read all of them.
//
// The keys of this module lie two levels below each place: <place>/<period>/<name>.

// landmarkFolder is a folder in a place that is not a period. If a listing of the place shows the key in
// it, the listing is complete.
const landmarkFolder = "landmark"

// isFolder reports whether a name in a place is a folder with keys in it.
func isFolder(name string) bool {
	_, err := strconv.ParseInt(name, 10, 64)
	return err == nil || name == landmarkFolder
}

// List returns the keys in dir, or if recursive all below it, each with dir in front. Folders may be
// among the keys. An empty result is verified.
func (v *verified) List(ctx context.Context, dir string, recursive bool) ([]string, error) {
	names, err := v.names(ctx, dir, recursive)
	if len(names) == 0 && (err == nil || errors.Is(err, fs.ErrNotExist)) {
		if err := v.reach(ctx); err != nil {
			return nil, err
		}
		names, err = v.names(ctx, dir, recursive)
	}
	for i, name := range names {
		names[i] = path.Join(dir, name)
	}
	return names, err
}

// names returns the same as List, without dir in front.
func (v *verified) names(ctx context.Context, dir string, recursive bool) ([]string, error) {
	var names []string
	err := errAsked
	if !recursive || !v.refuses.Load() {
		names, err = v.ask(ctx, dir, recursive)
	}
	// fs.ErrNotExist means that dir does not exist. An empty listing may come from an engine that supports
	// only the other kind of listing.
	isRefused := err != nil && !errors.Is(err, fs.ErrNotExist)
	if ctx.Err() == nil && (isRefused || err == nil && len(names) == 0) {
		others, otherErr := v.ask(ctx, dir, !recursive)
		switch {
		case otherErr == nil && (isRefused || len(others) > 0):
			if recursive && isRefused {
				v.refuses.Store(true)
			}
			names, err = others, nil
		case err == errAsked || isRefused && errors.Is(otherErr, fs.ErrNotExist):
			err = otherErr
		}
	}
	if err != nil {
		return names, err
	}
	if !recursive {
		for i, name := range names {
			names[i], _, _ = strings.Cut(name, "/")
		}
		slices.Sort(names)
		return slices.Compact(names), nil
	}
	return v.fill(ctx, dir, names)
}

// errAsked replaces the answer of an engine that is known to refuse recursive listings.
var errAsked = errors.New("it refuses recursive listings")

// ask asks the engine for the keys of dir, and returns the names below it.
func (v *verified) ask(ctx context.Context, dir string, recursive bool) ([]string, error) {
	keys, err := v.Storage.List(ctx, dir, recursive)
	return below(keys, dir), err
}

// fill lists each folder that is empty according to names: the engine may not have listed recursively.
func (v *verified) fill(ctx context.Context, dir string, names []string) ([]string, error) {
	filled := make(map[string]bool)
	for _, name := range names {
		if folder, _, isIn := strings.Cut(name, "/"); isIn {
			filled[folder] = true
		}
	}
	for _, folder := range names {
		if strings.Contains(folder, "/") || filled[folder] || !isFolder(folder) {
			continue
		}
		in, err := v.ask(ctx, path.Join(dir, folder), false)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, name := range in {
			names = append(names, folder+"/"+name)
		}
	}
	return names, nil
}

// below returns the part of each key below dir, whatever an engine puts around it, without duplicates. The
// engine's own prefix is the shortest text before dir: a longer one belongs to another storage
// in the same bucket.
func below(keys []string, dir string) []string {
	shortest := -1
	var names []string
	seen := make(map[string]bool)
	for _, key := range keys {
		key = strings.Trim(strings.ReplaceAll(key, `\`, "/"), "/")
		before, name, ok := strings.Cut("/"+key, "/"+dir+"/")
		if !ok || name == "" {
			continue // dir itself, or a key elsewhere
		}
		if shortest < 0 || len(before) < shortest {
			shortest = len(before)
			names = names[:0]
			clear(seen)
		}
		if len(before) == shortest && !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	return names
}

// List returns the keys of a storage in the folders of dir, as this module reads them.
func List(ctx context.Context, storage certmagic.Storage, dir string) ([]string, error) {
	names, err := (&verified{Storage: storage}).names(ctx, dir, true)
	for i, name := range names {
		names[i] = path.Join(dir, name)
	}
	return names, err
}

// listTries limits how often a listing is tried that other instances disturb, within a second.
const listTries = 10

// list returns the keys of a directory. A missing directory is no error.
func list(ctx context.Context, storage certmagic.Storage, dir string, recursive bool) ([]string, error) {
	for try := range listTries {
		if try > 0 {
			select {
			case <-time.After(time.Millisecond << try):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		keys, err := storage.List(ctx, dir, recursive)
		if !errors.Is(err, fs.ErrNotExist) {
			return keys, err
		}
		// The directory is missing; or (with files) another instance has renamed a file during
		// the listing, and then the other files are not listed either.
		switch _, err := storage.Stat(ctx, dir); {
		case errors.Is(err, fs.ErrNotExist):
			return nil, nil
		case err != nil:
			return nil, err
		}
	}
	return nil, unlisted(storage, fmt.Errorf("%s is there, and listing it says that it is not", dir))
}

// ErrUnlisted is wrapped by the error of a listing that is incomplete.
var ErrUnlisted = fmt.Errorf("%w: a listing does not show what is stored", ErrStorage)

// list returns the keys of the place, or if not recursive its folders. It is an error if a key is missing
// among them that was stored there for this purpose.
func (p *periods) list(ctx context.Context, storage certmagic.Storage, recursive bool) ([]string, error) {
	mark := path.Join(p.prefix, landmarkFolder)
	key := path.Join(mark, "1")
	if recursive {
		mark = key
	}
	for _, isLast := range []bool{false, true} {
		keys, err := list(ctx, storage, p.prefix, recursive)
		if err != nil {
			return nil, err
		}
		if slices.Contains(keys, mark) {
			return keys, nil
		}
		if !isLast {
			if err := storage.Store(ctx, key, []byte{1}); err != nil {
				return nil, err
			}
		}
	}
	return nil, unlisted(storage, fmt.Errorf("%s has %s", p.prefix, mark))
}

// unlisted returns an error that wraps ErrUnlisted, of which a bounded storage is told.
func unlisted(storage certmagic.Storage, what error) error {
	return tell(storage, "listing", fmt.Errorf("%w: %w", ErrUnlisted, what))
}

// tell tells a bounded storage of an error that came of what it was asked for, and returns the error.
func tell(storage certmagic.Storage, operation string, err error) error {
	if b, ok := storage.(*bounded); ok {
		return b.fail(operation, err)
	}
	return err
}
