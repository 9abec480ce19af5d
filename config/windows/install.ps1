# Rights and firewall of the service; as an administrator, after `vb365-async-proxy.exe install`.
$ErrorActionPreference = 'Stop'
$root = 'C:\vb365-async-proxy'
$account = 'NT SERVICE\vb365asyncproxy'

# The configuration, which may have secrets, can be read by the service and administrators only.
$rights = 'BUILTIN\Administrators:(OI)(CI)F', 'NT AUTHORITY\SYSTEM:(OI)(CI)F', ($account + ':(OI)(CI)RX')
icacls $root '/inheritance:r' '/grant' $rights
if ($LASTEXITCODE) { throw 'icacls failed' }

# The service can write the data and the log only.
foreach ($name in @('data', 'log')) {
    New-Item -ItemType Directory -Force -Path "$root\$name" | Out-Null
    icacls "$root\$name" '/grant' ($account + ':(OI)(CI)M')
    if ($LASTEXITCODE) { throw 'icacls failed' }
}

# Clients reach listen.address; admin.address stays on loopback.
New-NetFirewallRule -DisplayName 'VB365 asynchronous proxy' -Direction Inbound -Action Allow -Protocol TCP -LocalPort 4443 -Profile @('Domain', 'Private')
