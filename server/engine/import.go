package engine

import "net/http"

// importImage answers POST /images/create?fromSrc=: a root filesystem becomes an image.
func (s *Server) importImage(http.ResponseWriter, *request) error {
	return notImplemented("importing root filesystems through the API")
}
