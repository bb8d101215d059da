package registry

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/bcrypt"
)

// Action is something a rule can allow in a repository.
type Action string

// The actions. Pull is to read, push to add and to move tags, delete to remove.
const (
	actionPull   Action = "pull"
	actionPush   Action = "push"
	actionDelete Action = "delete"
)

// Accounts are who may do what, as a registry keeps it for itself: the document "accounts".
// The zero value lets nobody in.
type Accounts struct {
	Users map[string]User `json:"users,omitempty"`
	Rules []AccessRule    `json:"rules,omitempty"`
	// Key signs tokens. It is made with the first change.
	Key []byte `json:"key,omitempty"`
}

// User is a person with a password, or a robot with a key.
type User struct {
	Password string    `json:"password,omitempty"` // bcrypt
	Key      string    `json:"key,omitempty"`      // of a robot: hex of the key's sha256
	Groups   []string  `json:"groups,omitempty"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires,omitzero"`
}

// Robot tells whether it is one.
func (u User) Robot() bool { return u.Key != "" }

// AccessRule allows actions in repositories. What no rule allows is forbidden.
type AccessRule struct {
	// Repositories is a glob: "*" stands for anything within a component, "**" for anything.
	Repositories string `json:"repositories"`
	// Who is a user's name, "@" and a group's, "*" for whoever has logged in, or
	// "anonymous" for everybody.
	Who     string   `json:"who"`
	Actions []Action `json:"actions"`
}

// accountsDocument is the name of the document.
const accountsDocument = "accounts"

// Check returns what is wrong with a rule. Class errdefs.ErrInvalidArgument.
func (r AccessRule) Check() error {
	if r.Who == "" || r.Repositories == "" || len(r.Actions) == 0 {
		return fmt.Errorf("a rule has repositories, somebody and actions: %w", errdefs.ErrInvalidArgument)
	}
	for _, a := range r.Actions {
		if a != actionPull && a != actionPush && a != actionDelete {
			return fmt.Errorf("%q is not one of pull, push and delete: %w", a, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// applies reports whether a rule speaks of a user, "" for one that has not logged in.
func (r AccessRule) applies(name string, groups []string) bool {
	switch {
	case r.Who == "anonymous":
		return true
	case name == "":
		return false
	case r.Who == "*":
		return true
	case strings.HasPrefix(r.Who, "@"):
		return slices.Contains(groups, r.Who[1:])
	}
	return r.Who == name
}

// allows reports whether name may do a in repo.
func (c *Accounts) allows(name string, a Action, repo string) bool {
	groups := c.Users[name].Groups
	return slices.ContainsFunc(c.Rules, func(r AccessRule) bool {
		return r.applies(name, groups) && slices.Contains(r.Actions, a) && matchGlob(r.Repositories, repo)
	})
}

// allowsEverywhere reports whether a rule lets name do a in all repositories.
func (c *Accounts) allowsEverywhere(name string, a Action) bool {
	groups := c.Users[name].Groups
	return slices.ContainsFunc(c.Rules, func(r AccessRule) bool {
		return r.applies(name, groups) && slices.Contains(r.Actions, a) && r.Repositories == everywhere
	})
}

// everywhere is the glob of all repositories.
const everywhere = "**"

// matchGlob matches a name with a glob of "*" and "**". Its time is bounded by the product
// of the lengths.
func matchGlob(glob, name string) bool {
	if glob == everywhere {
		return true
	}
	var starGlob, starName = -1, 0
	deep := false
	g, n := 0, 0
	type point struct {
		glob, name int
	}
	var deepAt *point // the last "**", which a later "*" does not forget
	for n < len(name) {
		switch {
		case g < len(glob) && glob[g] == '*':
			deep = g+1 < len(glob) && glob[g+1] == '*'
			if g++; deep {
				g++
				deepAt, starGlob = &point{g, n}, -1
			} else {
				starGlob, starName = g, n
			}
		case g < len(glob) && glob[g] == name[n]:
			g++
			n++
		case starGlob >= 0 && name[starName] != '/':
			starName++
			g, n = starGlob, starName
		case deepAt != nil:
			deepAt.name++
			g, n, starGlob = deepAt.glob, deepAt.name, -1
		default:
			return false
		}
	}
	return strings.Trim(glob[g:], "*") == ""
}

// EditAccounts changes the accounts of the registry in o.Root or o.Bucket. Servers see it
// within some seconds. A registry that is not there is made, unless o.Existing says otherwise.
func EditAccounts(ctx context.Context, o Options, edit func(*Accounts) error) error {
	s, err := openStorage(o)
	if err != nil {
		return err
	}
	return editAccounts(ctx, s, edit)
}

func editAccounts(ctx context.Context, s documents, edit func(*Accounts) error) error {
	return editDocument(ctx, s, accountsDocument, func(b []byte) ([]byte, error) {
		c, err := decodeAccounts(b)
		if err != nil {
			return nil, err
		}
		if len(c.Key) == 0 {
			c.Key = make([]byte, 32)
			rand.Read(c.Key)
		}
		if err := edit(c); err != nil {
			return nil, err
		}
		return json.MarshalIndent(c, "", " ")
	})
}

// ReadAccounts returns the accounts of the registry in o.Root or o.Bucket. errdefs.ErrNotFound
// when there is no registry.
func ReadAccounts(ctx context.Context, o Options) (*Accounts, error) {
	o.Existing = true
	s, err := openStorage(o)
	if err != nil {
		return nil, err
	}
	b, _, err := s.Document(ctx, accountsDocument)
	if ignoreNotFound(err) != nil {
		return nil, err
	}
	return decodeAccounts(b)
}

func decodeAccounts(b []byte) (*Accounts, error) {
	c := &Accounts{}
	if len(b) > 0 {
		if err := json.Unmarshal(b, c); err != nil {
			return nil, fmt.Errorf("accounts: %w: %w", errdefs.ErrDataLoss, err)
		}
	}
	if c.Users == nil {
		c.Users = map[string]User{}
	}
	return c, nil
}

// CheckUserName returns what is wrong with the name of a user or a group.
func CheckUserName(name string) error {
	ok := name != "" && len(name) <= 64 && name != "anonymous"
	for i := range len(name) {
		c := name[i]
		ok = ok && (isLowerAlnum(c) || 'A' <= c && c <= 'Z' || i > 0 && strings.IndexByte("._-+@", c) >= 0)
	}
	if !ok {
		return fmt.Errorf("%q is not a name: letters, digits and ._-+@, not \"anonymous\": %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// SetPassword gives a user a password of at most 72 bytes, which is what bcrypt can.
func (c *Accounts) SetPassword(name, password string) error {
	if err := CheckUserName(name); err != nil {
		return err
	}
	if password == "" || len(password) > 72 {
		return fmt.Errorf("a password has 1 to 72 bytes: %w", errdefs.ErrInvalidArgument)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.DefaultCost)
	if err != nil {
		return err
	}
	u := c.Users[name]
	if u.Robot() {
		return fmt.Errorf("%s is a robot, with a key: %w", name, errdefs.ErrAlreadyExists)
	}
	if u.Created.IsZero() {
		u.Created = time.Now().UTC()
	}
	u.Password = string(hash)
	c.Users[name] = u
	return nil
}

// robotPrefix marks keys, so that they are found where they were left lying.
const robotPrefix = "teu_"

// AddRobot makes a robot and returns its key, which is kept nowhere.
func (c *Accounts) AddRobot(name string, groups []string, expires time.Time) (key string, err error) {
	if err := CheckUserName(name); err != nil {
		return "", err
	}
	if _, ok := c.Users[name]; ok {
		return "", fmt.Errorf("there is a user or robot %s: %w", name, errdefs.ErrAlreadyExists)
	}
	b := make([]byte, 32)
	rand.Read(b)
	key = robotPrefix + base64.RawURLEncoding.EncodeToString(b)
	c.Users[name] = User{Key: hashKey(key), Groups: groups, Created: time.Now().UTC(), Expires: expires}
	return key, nil
}

func hashKey(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

// checkKey compares a robot's key.
func (u User) checkKey(key string) bool {
	return subtle.ConstantTimeCompare([]byte(hashKey(key)), []byte(u.Key)) == 1
}

// mark tells one account of a name from another, and a password from the one before, so that a
// token is no good for who was not asked for the same. It is "" for who has no account.
func (c *Accounts) mark(name string) string {
	u, ok := c.Users[name]
	if !ok {
		return ""
	}
	return hex.EncodeToString(tokenMAC(c.Key, u.Password+" "+u.Key+" "+u.Created.UTC().Format(time.RFC3339Nano))[:8])
}

// expired reports whether a user's time is over.
func (u User) expired() bool { return !u.Expires.IsZero() && time.Now().After(u.Expires) }
