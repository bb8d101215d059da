package registry

type authorizer struct{}

func newAuthorizer(h *host, credentials bool) *authorizer { return &authorizer{} }
