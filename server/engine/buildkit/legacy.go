package buildkit

import (
	"context"
	"errors"

	controlapi "github.com/moby/buildkit/api/services/control"
	"google.golang.org/protobuf/proto"

	"github.com/teu-dev/teu/build"
)

// An Export is an output as clients of BuildKit ask for one.
type Export struct {
	Type  string
	Attrs map[string]string
}

// Build builds o for the client with a session, as docker before 23 asks for it without gRPC. status gets
// messages of BuildKit's Control.Status, one at a time.
func (s *Server) Build(ctx context.Context, session string, o build.Options, exports []Export, status func([]byte) error) (_ build.Result, err error) {
	w := &wish{c: &caller{server: s, id: session}, o: o}
	if w.c.builder, err = s.Builder(w.c.credential); err != nil {
		return build.Result{}, err
	}
	defer func() { err = errors.Join(err, w.c.close()) }()
	for id, e := range exports {
		if err := w.output(id, e.Type, e.Attrs); err != nil {
			return build.Result{}, err
		}
	}
	var f feed
	f.init()
	told := make(chan error, 1)
	go func() {
		told <- f.send(ctx, func(r *controlapi.StatusResponse) error {
			b, err := proto.Marshal(r)
			if err != nil {
				return err
			}
			return status(b)
		})
	}()
	res, err := w.build(ctx, &f, nil)
	f.close()
	<-told // a client that went is none to be told
	if err != nil {
		return res, outward(err)
	}
	return res, nil
}
