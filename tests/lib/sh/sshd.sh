# sshd.sh: an sshd of a benchmark's own on $HOST:2222, for rsync, lsyncd and sshfs. Source after lib.sh; in a mount and a network namespace of its own.
#   ssh_start       then: $SSH root@$HOST COMMAND; ssh_to PORT prints the command for another port (a relay's)

ssh_to() { echo "ssh -p $1 -i $SCRATCH/ssh/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"; }

ssh_start() {
    mkdir -p "$SCRATCH/ssh" /run/sshd
    mount -t tmpfs -o mode=755 tmpfs /run/sshd
    ssh-keygen -q -t ed25519 -N '' -f "$SCRATCH/ssh/host" && ssh-keygen -q -t ed25519 -N '' -f "$SCRATCH/ssh/user" || return 1
    cp "$SCRATCH/ssh/user.pub" "$SCRATCH/ssh/authorized"
    chmod 600 "$SCRATCH/ssh/authorized"
    printf '%s\n' "ListenAddress $HOST:2222" "HostKey $SCRATCH/ssh/host" "AuthorizedKeysFile $SCRATCH/ssh/authorized" "StrictModes no" "UsePAM no" "PermitRootLogin yes" \
        "PidFile none" "Subsystem sftp internal-sftp" >"$SCRATCH/ssh/config"
    start sshd /usr/sbin/sshd -D -e -f "$SCRATCH/ssh/config"
    SSH=$(ssh_to 2222)
    wait_until 10 $SSH "root@$HOST" true
}
