package runner

// VolumeSize is what the files of a volume take, in bytes; 0 for one that is gone.
func (e *Engine) VolumeSize(name string) int64 {
	v, err := e.Volume(name)
	if err != nil {
		return 0
	}
	return diskUsage(v.Mountpoint)
}
