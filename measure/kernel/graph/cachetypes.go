package graph

// cacheOf is what a cache holds.
type cacheOf struct {
	typ    string
	module string // that has the type, where it is one
	older  string // the type in kernels that lack the other
}

// cacheTypes names the type of a cache's objects where the cache is not called
// like it, as caches made by KMEM_CACHE are (include/linux/slab.h). Sources are
// the kernel's, the file that creates the cache.
var cacheTypes = map[string]cacheOf{
	"filp":                  {typ: "file"},                            // fs/file_table.c
	"inode_cache":           {typ: "inode"},                           // fs/inode.c
	"ext4_inode_cache":      {typ: "ext4_inode_info", module: "ext4"}, // fs/ext4/super.c
	"shmem_inode_cache":     {typ: "shmem_inode_info"},                // mm/shmem.c
	"proc_inode_cache":      {typ: "proc_inode"},                      // fs/proc/inode.c
	"bdev_cache":            {typ: "bdev_inode"},                      // block/bdev.c
	"mqueue_inode_cache":    {typ: "mqueue_inode_info"},               // ipc/mqueue.c
	"hugetlbfs_inode_cache": {typ: "hugetlbfs_inode_info"},            // fs/hugetlbfs/inode.c
	"fat_inode_cache":       {typ: "msdos_inode_info", module: "fat"}, // fs/fat/inode.c
	"xfs_inode":             {typ: "xfs_inode", module: "xfs"},        // fs/xfs/xfs_super.c
	"fuse_inode":            {typ: "fuse_inode", module: "fuse"},      // fs/fuse/inode.c
	"ovl_inode":             {typ: "ovl_inode", module: "overlay"},    // fs/overlayfs/super.c
	"signal_cache":          {typ: "signal_struct"},                   // kernel/fork.c
	"sighand_cache":         {typ: "sighand_struct"},                  // kernel/fork.c
	"files_cache":           {typ: "files_struct"},                    // kernel/fork.c
	"fs_cache":              {typ: "fs_struct"},                       // kernel/fork.c
	"cred_jar":              {typ: "cred"},                            // kernel/cred.c
	"kernfs_node_cache":     {typ: "kernfs_node"},                     // fs/kernfs/mount.c
	"mnt_cache":             {typ: "mount"},                           // fs/namespace.c
	"net_namespace":         {typ: "net"},                             // net/core/net_namespace.c
	"posix_timers_cache":    {typ: "k_itimer"},                        // kernel/time/posix-timers.c
	"eventpoll_epi":         {typ: "epitem"},                          // fs/eventpoll.c
	"TCP":                   {typ: "tcp_sock"},                        // net/ipv4/tcp_ipv4.c
	"TCPv6":                 {typ: "tcp6_sock"},                       // net/ipv6/tcp_ipv6.c
	"UDP":                   {typ: "udp_sock"},                        // net/ipv4/udp.c
	"UDPv6":                 {typ: "udp6_sock"},                       // net/ipv6/udp.c
	"RAW":                   {typ: "raw_sock"},                        // net/ipv4/raw.c
	"RAWv6":                 {typ: "raw6_sock"},                       // net/ipv6/raw.c
	"PING":                  {typ: "inet_sock"},                       // net/ipv4/ping.c
	"UNIX":                  {typ: "unix_sock"},                       // net/unix/af_unix.c
	"UNIX-STREAM":           {typ: "unix_sock"},                       // net/unix/af_unix.c
	"radix_tree_node":       {typ: "xa_node"},                         // lib/radix-tree.c

	// net/socket.c; as of 7.2 the former has the latter within.
	"sock_inode_cache": {typ: "sockfs_inode", older: "socket_alloc"},
}
