package aide

// Legend says what the letters of a report mean.
const Legend = `legend: YlZbpugamcinHAXSEC: path
  Y  type now: f file, d directory, l symbolic link, c character device, b block device, p FIFO, s socket
  l  link target      Z  size: > grew, < shrank     b  blocks (not kept)   p  permissions
  u  owner            g  group                      a  accessed (not kept) m  modified
  c  inode changed    i  inode number               n  number of links     H  content (checksums)
  A  ACL              X  extended attributes        S  SELinux context     E  attributes of lsattr
  C  capabilities
  .  (=) is as it was; a blank is not compared; + or - came or went; : is not reported
`
