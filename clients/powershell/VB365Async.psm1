# Asynchronous exports from Veeam Backup for Microsoft 365 through vb365-async-proxy,
# for Windows PowerShell 5.1 and PowerShell 7. This module is checked by the grammar of PowerShell
# and by review; it has not been run, because no PowerShell was at hand.

Set-StrictMode -Version 2.0
Add-Type -AssemblyName System.Net.Http

# The connection that the commands use by default. Its token and credential are in memory only.
$script:Connection = $null

# Seconds of one long-poll, and of one request that is not a download.
$script:PollSeconds = 30
$script:RequestSeconds = 100
# Seconds without a byte after which a download is tried again, and how often it is without progress.
$script:StallSeconds = 120
$script:Attempts = 10

function Connect-VB365Async {
    <#
    .SYNOPSIS
    Logs in to Veeam Backup for Microsoft 365 through the proxy.
    .DESCRIPTION
    The token is renewed automatically, so that an export may take longer than a token is valid.
    If the proxy has a self-signed certificate, trust that certificate with Import-Certificate.
    .PARAMETER Server
    The base URL of the proxy, for example https://vb365.example.com:4443
    .PARAMETER Credential
    User name and password.
    .PARAMETER ApiVersion
    The version of the VB365 API.
    .EXAMPLE
    Connect-VB365Async -Server https://vb365.example.com:4443 -Credential (Get-Credential)
    #>
    [CmdletBinding()]
    [OutputType([pscustomobject])]
    param(
        [Parameter(Mandatory, Position = 0)] [uri] $Server,
        [Parameter(Mandatory, Position = 1)] [pscredential] $Credential,
        [ValidatePattern('^v\d+$')] [string] $ApiVersion = 'v8'
    )
    if (-not $Server.IsAbsoluteUri -or $Server.Scheme -notin 'http', 'https') {
        throw "-Server '$Server' is not an http or https URL. Example: https://vb365.example.com:4443"
    }
    # Windows PowerShell 5.1 on older Windows does not offer TLS 1.2 by itself.
    if ($PSVersionTable.PSEdition -ne 'Core') {
        [Net.ServicePointManager]::SecurityProtocol =
            [Net.ServicePointManager]::SecurityProtocol -bor [Net.SecurityProtocolType]::Tls12
    }
    $handler = New-Object Net.Http.HttpClientHandler
    $handler.AllowAutoRedirect = $false     # the token must not follow to another server
    $handler.UseCookies = $false
    $client = New-Object Net.Http.HttpClient -ArgumentList $handler
    $client.Timeout = [Threading.Timeout]::InfiniteTimeSpan
    $connection = @{
        Server       = $Server.AbsoluteUri.TrimEnd('/')
        ApiVersion   = $ApiVersion
        Client       = $client
        Credential   = $Credential
        AccessToken  = $null
        RefreshToken = $null
        RenewAt      = [datetime]::MinValue
    }
    Update-Token $connection
    $script:Connection = $connection
    # without the token
    [pscustomobject]@{
        PSTypeName = 'VB365Async.Connection'
        Server     = $connection.Server
        User       = $Credential.UserName
        ApiVersion = $ApiVersion
    }
}

function Disconnect-VB365Async {
    <#
    .SYNOPSIS
    Forgets the connection and its token. Running exports continue.
    #>
    [CmdletBinding()]
    param()
    if ($null -ne $script:Connection) {
        $script:Connection.Client.Dispose()
        $script:Connection = $null
    }
}

function Start-VB365AsyncExport {
    <#
    .SYNOPSIS
    Starts an export and returns its job at once.
    .PARAMETER Mailbox
    The e-mail address of a mailbox. A restore session is opened for it, which
    Receive-VB365AsyncExport -StopSession stops.
    .PARAMETER At
    The restore point: the state of the mailbox at this time. Default: now.
    .PARAMETER Organization
    The name of the organization, if there are several.
    .PARAMETER Path
    The path of an export of the REST API, for example
    /v8/RestoreSessions/<id>/organization/mailboxes/<id>/exportToPst
    .PARAMETER Body
    The body of the export, as an object or as JSON.
    .PARAMETER IdempotencyKey
    A repeated call with the same key returns the job of the first one. Default: a new key for each
    call, so that only a call that is repeated by a script needs one.
    .EXAMPLE
    Start-VB365AsyncExport -Mailbox bob@contoso.com | Wait-VB365AsyncExport | Receive-VB365AsyncExport
    #>
    [CmdletBinding(DefaultParameterSetName = 'Mailbox', SupportsShouldProcess)]
    [OutputType([pscustomobject])]
    param(
        [Parameter(Mandatory, ParameterSetName = 'Mailbox', Position = 0,
            ValueFromPipeline, ValueFromPipelineByPropertyName)]
        [Alias('EmailAddress', 'PrimarySmtpAddress')] [string] $Mailbox,
        [Parameter(ParameterSetName = 'Mailbox')] [datetime] $At = [datetime]::Now,
        [Parameter(ParameterSetName = 'Mailbox')] [string] $Organization,
        [Parameter(Mandatory, ParameterSetName = 'Path')] [string] $Path,
        [object] $Body = @{},
        [ValidateLength(1, 255)] [string] $IdempotencyKey
    )
    process {
        $what = if ($PSCmdlet.ParameterSetName -eq 'Mailbox') { $Mailbox } else { $Path }
        if (-not $PSCmdlet.ShouldProcess($what, 'Export')) { return }
        $json = if ($Body -is [string]) { $Body } else { ConvertTo-Json -InputObject $Body -Depth 20 -Compress }
        $key = if ($IdempotencyKey) { $IdempotencyKey } else { [guid]::NewGuid().ToString() }
        try {
            $connection = Get-Connection
            if ($PSCmdlet.ParameterSetName -eq 'Path') {
                Start-Export $connection $Path $json $key
                return
            }
            $session = Open-Session $connection $At $Organization
            try {
                Start-Export $connection (Find-Mailbox $connection $session $Mailbox) $json $key
            } catch {
                Stop-Session $connection $session
                throw
            }
        } catch {
            $PSCmdlet.WriteError($_)
        }
    }
}

function Get-VB365AsyncExport {
    <#
    .SYNOPSIS
    Returns the current state of jobs, or lists your own jobs.
    .PARAMETER Job
    A job, its URL or its id.
    .EXAMPLE
    Get-VB365AsyncExport | Where-Object status -eq 'Failed' | Select-Object id, message
    #>
    [CmdletBinding()]
    [OutputType([pscustomobject])]
    param([Parameter(Position = 0, ValueFromPipeline)] [object] $Job)
    process {
        try {
            $connection = Get-Connection
            if ($PSBoundParameters.ContainsKey('Job')) {
                $path = Get-JobPath $connection $Job
                $answer = Invoke-Api $connection 'GET' $path
                ConvertTo-Job $answer.Document $path
                return
            }
            $list = "/$($connection.ApiVersion)/_async/exports"
            Get-Page $connection $list | ForEach-Object { ConvertTo-Job $_ "$list/$($_.id)" }
        } catch {
            $PSCmdlet.WriteError($_)
        }
    }
}

function Wait-VB365AsyncExport {
    <#
    .SYNOPSIS
    Waits until jobs have ended and returns them. A failed or cancelled job is an error.
    .PARAMETER Timeout
    Seconds to wait at most. Default: until the job ends.
    .EXAMPLE
    $job | Wait-VB365AsyncExport -Timeout 3600
    #>
    [CmdletBinding()]
    [OutputType([pscustomobject])]
    param(
        [Parameter(Mandatory, Position = 0, ValueFromPipeline)] [object] $Job,
        [ValidateRange(1, 2147483)] [int] $Timeout = 2147483
    )
    process {
        try {
            $connection = Get-Connection
            $path = Get-JobPath $connection $Job
            $document = Wait-Export $connection $path $Timeout
            $found = ConvertTo-Job $document $path
        } catch {
            $PSCmdlet.WriteError($_)
            return
        }
        switch ($document.status) {
            'Success' { $found }
            'Warning' {
                Write-Warning "$($document.id): the file is complete, but VB365 reports warnings. See the events of the restore session."
                $found
            }
            'Cancelled' { Write-Error "The export was cancelled: $path" -TargetObject $found }
            default { Write-Error "The export failed: $($document.error.message)" -TargetObject $found }
        }
    }
}

function Receive-VB365AsyncExport {
    <#
    .SYNOPSIS
    Downloads the file of jobs that have ended, verifies length and SHA-256, and returns the files.
    .DESCRIPTION
    Until it is complete the file is named *.part. An interrupted download continues where it
    stopped, also in a later call.
    .PARAMETER Destination
    A directory, or the name of the file. Default: the current directory.
    .PARAMETER Force
    Replaces an existing file.
    .PARAMETER StopSession
    Stops the restore session of the export afterwards.
    .EXAMPLE
    $job | Wait-VB365AsyncExport | Receive-VB365AsyncExport -Destination D:\Exports
    #>
    [CmdletBinding()]
    [OutputType([IO.FileInfo])]
    param(
        [Parameter(Mandatory, Position = 0, ValueFromPipeline)] [object] $Job,
        [Parameter(Position = 1)] [string] $Destination = '.',
        [switch] $Force,
        [switch] $StopSession
    )
    process {
        try {
            $connection = Get-Connection
            $path = Get-JobPath $connection $Job
            $document = (Invoke-Api $connection 'GET' $path).Document
            $result = $document.result
            if ($null -eq $result -or $result.state -ne 'Available') {
                throw "There is no file to download: $($document.message)"
            }
            $file = Get-Target $Destination $result.fileName
            if ((Test-Path -LiteralPath $file) -and -not $Force) {
                throw "$file already exists. Use -Force to replace it, or another -Destination."
            }
            # the digest is part of the name: another export is never continued with this one
            $part = '{0}.{1}.part' -f $file, $result.sha256.Substring(0, 8)
            Save-Result $connection "$path/result" $result $part
            $hash = (Get-FileHash -LiteralPath $part -Algorithm SHA256).Hash
            if ($hash -ne $result.sha256) {
                Remove-Item -LiteralPath $part
                throw "The SHA-256 of the download is $hash instead of $($result.sha256). The file was removed; try again."
            }
            Move-Item -LiteralPath $part -Destination $file -Force
            if ($StopSession) { Stop-Session $connection $document.request.restoreSessionId }
            Get-Item -LiteralPath $file
        } catch {
            $PSCmdlet.WriteError($_)
        }
    }
}

function Stop-VB365AsyncExport {
    <#
    .SYNOPSIS
    Cancels jobs and keeps their records.
    .PARAMETER Remove
    Removes the record and the file, too.
    .EXAMPLE
    Get-VB365AsyncExport | Where-Object phase -eq 'Queued' | Stop-VB365AsyncExport
    #>
    [CmdletBinding(SupportsShouldProcess, ConfirmImpact = 'Medium')]
    param(
        [Parameter(Mandatory, Position = 0, ValueFromPipeline)] [object] $Job,
        [switch] $Remove
    )
    process {
        try {
            $connection = Get-Connection
            $path = Get-JobPath $connection $Job
            $action = if ($Remove) { 'Cancel and remove' } else { 'Cancel' }
            if (-not $PSCmdlet.ShouldProcess($path, $action)) { return }
            if ($Remove) {
                $null = Invoke-Api $connection 'DELETE' $path
            } else {
                $null = Invoke-Api $connection 'POST' "$path/cancel"
            }
        } catch {
            $PSCmdlet.WriteError($_)
        }
    }
}

# The connection, with a valid token

function Get-Connection {
    if ($null -eq $script:Connection) {
        throw 'There is no connection. Call Connect-VB365Async first.'
    }
    $script:Connection
}

function Update-Token($Connection) {
    $form = New-Object 'Collections.Generic.Dictionary[string,string]'
    $form['disable_antiforgery_token'] = 'true'
    if ($Connection.RefreshToken) {
        $form['grant_type'] = 'refresh_token'
        $form['refresh_token'] = $Connection.RefreshToken
    } else {
        $form['grant_type'] = 'password'
        $form['username'] = $Connection.Credential.UserName
        $form['password'] = $Connection.Credential.GetNetworkCredential().Password
    }
    $url = "$($Connection.Server)/$($Connection.ApiVersion)/token"
    $request = New-Object Net.Http.HttpRequestMessage -ArgumentList ([Net.Http.HttpMethod]::Post), $url
    $request.Content = New-Object Net.Http.FormUrlEncodedContent -ArgumentList (, $form)
    $answer = Send-Request $Connection $request
    if ($answer.Status -ne 200) {
        if ($Connection.RefreshToken) {
            # an expired refresh token: log in again
            $Connection.RefreshToken = $null
            Update-Token $Connection
            return
        }
        throw "The login of $($Connection.Credential.UserName) failed: $($answer.Reason)"
    }
    $Connection.AccessToken = $answer.Document.access_token
    $Connection.RefreshToken = Get-MemberValue $answer.Document 'refresh_token'
    $Connection.RenewAt = [datetime]::UtcNow.AddSeconds(0.8 * $answer.Document.expires_in)
}

# Requests

function Invoke-Api {
    param($Connection, [string] $Method, [string] $Path, [hashtable] $Fields = @{}, [string] $Json)
    $repeatable = $Method -ne 'POST' -or $Fields.ContainsKey('Idempotency-Key') -or $Path -like '*/cancel'
    for ($try = 1; ; $try++) {
        if ([datetime]::UtcNow -ge $Connection.RenewAt) { Update-Token $Connection }
        $request = New-Request $Connection $Method $Path $Fields
        if ($PSBoundParameters.ContainsKey('Json')) {
            $request.Content = New-Object Net.Http.StringContent -ArgumentList $Json, ([Text.Encoding]::UTF8), 'application/json'
        }
        try {
            $answer = Send-Request $Connection $request
        } catch [Net.Http.HttpRequestException], [TimeoutException] {
            if (-not $repeatable -or $try -ge 5) { throw }
            Write-Verbose "$Method $Path failed: $($_.Exception.Message) Trying again."
            Start-Sleep -Seconds ([Math]::Pow(2, $try))
            continue
        }
        if ($answer.Status -eq 401 -and $try -eq 1) {
            $Connection.RenewAt = [datetime]::MinValue
            continue
        }
        if ($answer.Status -in 429, 503 -and $try -lt 5) {
            Write-Verbose "$Method $Path was rejected for now: $($answer.Reason)"
            Start-Sleep -Seconds ([Math]::Max(1, [Math]::Min(60, $answer.RetryAfter)))
            continue
        }
        if ($answer.Status -ge 400) { throw "$Method $Path failed: $($answer.Reason)" }
        return $answer
    }
}

function New-Request($Connection, [string] $Method, [string] $Path, [hashtable] $Fields) {
    $url = $Connection.Server + $Path
    $request = New-Object Net.Http.HttpRequestMessage -ArgumentList (New-Object Net.Http.HttpMethod -ArgumentList $Method), $url
    $null = $request.Headers.TryAddWithoutValidation('Authorization', "Bearer $($Connection.AccessToken)")
    foreach ($name in $Fields.Keys) {
        $null = $request.Headers.TryAddWithoutValidation($name, [string] $Fields[$name])
    }
    $request
}

function Wait-Task($Task, [double] $Seconds, [string] $What) {
    # in short steps, so that Ctrl-C works
    $watch = [Diagnostics.Stopwatch]::StartNew()
    while (-not $Task.AsyncWaitHandle.WaitOne(200)) {
        if ($watch.Elapsed.TotalSeconds -gt $Seconds) {
            throw (New-Object TimeoutException -ArgumentList "$What took more than $Seconds s.")
        }
    }
    try {
        $Task.GetAwaiter().GetResult()
    } catch [Management.Automation.MethodInvocationException] {
        $inner = $_.Exception.InnerException
        $cause = $inner
        while ($null -ne $cause.InnerException) { $cause = $cause.InnerException }
        throw (New-Object Net.Http.HttpRequestException -ArgumentList $cause.Message, $inner)
    }
}

function Send-Request($Connection, $Request) {
    $what = "$($Request.Method) $($Request.RequestUri.AbsolutePath)"
    $cancel = New-Object Threading.CancellationTokenSource
    try {
        $sending = $Connection.Client.SendAsync($Request, $cancel.Token)
        $response = Wait-Task $sending $script:RequestSeconds $what
        try {
            $text = Wait-Task ($response.Content.ReadAsStringAsync()) $script:RequestSeconds $what
            ConvertTo-Answer $response $text
        } finally {
            $response.Dispose()
        }
    } finally {
        $cancel.Cancel()
        $Request.Dispose()
    }
}

function ConvertTo-Answer($Response, [string] $Text) {
    $document = $null
    if ($Text) {
        try { $document = ConvertFrom-Json -InputObject $Text } catch { $document = $null }
    }
    $reason = "HTTP $([int] $Response.StatusCode)"
    $message = Get-MemberValue $document 'message'
    if ($message) { $reason = "$reason. $message" }
    $retryAfter = 5
    if ($null -ne $Response.Headers.RetryAfter -and $null -ne $Response.Headers.RetryAfter.Delta) {
        $retryAfter = $Response.Headers.RetryAfter.Delta.TotalSeconds
    }
    [pscustomobject]@{
        Status     = [int] $Response.StatusCode
        Document   = $document
        Reason     = $reason
        RetryAfter = $retryAfter
        ETag       = if ($null -ne $Response.Headers.ETag) { $Response.Headers.ETag.ToString() } else { '' }
        Location   = if ($null -ne $Response.Headers.Location) { $Response.Headers.Location.OriginalString } else { '' }
    }
}

function Get-MemberValue($Object, [string] $Name) {
    if ($null -eq $Object) { return $null }
    $property = $Object.PSObject.Properties[$Name]
    if ($null -ne $property) { $property.Value }
}

# Jobs

function ConvertTo-Job($Document, [string] $Url) {
    $path = Get-JobPath (Get-Connection) $Url
    Add-Member -InputObject $Document -NotePropertyName 'Path' -NotePropertyValue $path -Force
    $Document.PSObject.TypeNames.Insert(0, 'VB365Async.Job')
    $Document
}

function Get-JobPath($Connection, [object] $Job) {
    # The path below the server of the connection: the token is sent nowhere else.
    $given = if ($Job -is [string] -or $Job -is [uri]) { [string] $Job } else { Get-MemberValue $Job 'Path' }
    if (-not $given) { throw "-Job is neither a job, nor the URL or the id of one." }
    $id = '[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}'
    if ($given -match "^$id$") { return "/$($Connection.ApiVersion)/_async/exports/$given" }
    if ($given -match "((?:/v\d+)?/_[A-Za-z0-9_-]+/exports/$id)/?$") { return $Matches[1] }
    throw "-Job '$given' is neither a job, nor the URL or the id of one."
}

function Start-Export($Connection, [string] $Path, [string] $Json, [string] $Key) {
    $fields = @{ 'Prefer' = 'respond-async'; 'Idempotency-Key' = $Key }
    $answer = Invoke-Api $Connection 'POST' $Path -Fields $fields -Json $Json
    if ($answer.Status -ne 202) {
        throw "The export was not started asynchronously: HTTP $($answer.Status). Is $($Connection.Server) the proxy?"
    }
    ConvertTo-Job $answer.Document $answer.Location
}

function Wait-Export($Connection, [string] $Path, [int] $Timeout) {
    # The document of the job when it has ended.
    $watch = [Diagnostics.Stopwatch]::StartNew()
    $fields = @{}
    $activity = "Export $Path"
    try {
        while ($true) {
            $answer = Invoke-Api $Connection 'GET' $Path -Fields $fields
            $document = $answer.Document
            if ($null -ne $document) {
                if ($document.status -ne 'Running') { return $document }
                Show-Progress $activity $document
                $fields = @{ 'If-None-Match' = $answer.ETag }
            }
            $left = $Timeout - [int] $watch.Elapsed.TotalSeconds
            if ($left -le 0) { throw "The export is still running after $Timeout s: $Path" }
            $fields['Prefer'] = "wait=$([Math]::Min($left, $script:PollSeconds))"
        }
    } finally {
        Write-Progress -Activity $activity -Completed
    }
}

function Show-Progress([string] $Activity, $Document) {
    $percent = $Document.progress.percent
    $seconds = $Document.progress.secondsRemaining
    $known = @{}
    if ($null -ne $percent) { $known['PercentComplete'] = $percent }
    if ($null -ne $seconds) { $known['SecondsRemaining'] = $seconds }
    Write-Progress -Activity $Activity -Status "$($Document.phase): $($Document.message)" @known
}

# Restore sessions

function Get-Page($Connection, [string] $List) {
    $offset = 0
    do {
        $page = @((Invoke-Api $Connection 'GET' "$List`?offset=$offset&limit=1000").Document.results)
        $page
        $offset += $page.Count
    } while ($page.Count -eq 1000)
}

function Open-Session($Connection, [datetime] $At, [string] $Organization) {
    $organizations = "/$($Connection.ApiVersion)/Organizations"
    $all = @(Get-Page $Connection $organizations)
    $matching = @($all | Where-Object { -not $Organization -or $_.name -eq $Organization })
    if ($matching.Count -ne 1) {
        throw "Choose one organization with -Organization. There are: $(@($all | ForEach-Object { $_.name }) -join ', ')"
    }
    $point = @{ dateTime = $At.ToUniversalTime().ToString('yyyy-MM-ddTHH:mm:ssZ'); type = 'vex' }
    $explore = "$organizations/$($matching[0].id)/explore"
    (Invoke-Api $Connection 'POST' $explore -Json (ConvertTo-Json -InputObject $point -Compress)).Document.id
}

function Find-Mailbox($Connection, [string] $Session, [string] $Mailbox) {
    $mailboxes = "/$($Connection.ApiVersion)/RestoreSessions/$Session/organization/mailboxes"
    $found = @(Get-Page $Connection $mailboxes | Where-Object { (Get-MemberValue $_ 'email') -eq $Mailbox })
    if ($found.Count -ne 1) { throw "There are $($found.Count) mailboxes with the address $Mailbox." }
    "$mailboxes/$([uri]::EscapeDataString($found[0].id))/exportToPst"
}

function Stop-Session($Connection, [string] $Session) {
    try {
        $null = Invoke-Api $Connection 'POST' "/$($Connection.ApiVersion)/RestoreSessions/$Session/Stop"
    } catch {
        Write-Warning "The restore session $Session was not stopped: $($_.Exception.Message)"
    }
}

# Downloads

function Get-Target([string] $Destination, [string] $Name) {
    $full = $ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($Destination)
    if (Test-Path -LiteralPath $full -PathType Container) {
        # only a name: nothing that the server sends leaves the directory
        $safe = [IO.Path]::GetFileName($Name) -replace '[<>:"/\\|?*\x00-\x1f]', '_'
        if (-not $safe -or $safe.Trim('. ') -eq '') { $safe = 'export.bin' }
        return Join-Path $full $safe
    }
    $full
}

function Get-Length([string] $File) {
    if (Test-Path -LiteralPath $File) { (Get-Item -LiteralPath $File).Length } else { 0 }
}

function Save-Result($Connection, [string] $Path, $Result, [string] $Part) {
    if (-not (Test-Path -LiteralPath $Part)) { $null = New-Item -ItemType File -Path $Part }
    $failures = 0
    while (($stored = Get-Length $Part) -ne $Result.size) {
        if ($stored -gt $Result.size) { throw "$Part is longer than the file. Remove it and try again." }
        $reason = 'The connection was closed.'
        try {
            Save-Rest $Connection $Path $Result $Part $stored
        } catch [Net.Http.HttpRequestException], [TimeoutException], [IO.IOException] {
            $reason = $_.Exception.Message
        }
        $now = Get-Length $Part
        $failures = if ($now -gt $stored) { 0 } else { $failures + 1 }
        if ($failures -ge $script:Attempts) {
            throw "The download stopped after $now of $($Result.size) bytes: $reason Call again to continue."
        }
        if ($now -ne $Result.size) {
            Write-Verbose "The download stopped after $now bytes: $reason Continuing."
            Start-Sleep -Seconds 2
        }
    }
}

function Save-Rest($Connection, [string] $Path, $Result, [string] $Part, [long] $Stored) {
    if ([datetime]::UtcNow -ge $Connection.RenewAt) { Update-Token $Connection }
    $fields = @{}
    if ($Stored -gt 0) {
        $fields = @{ 'Range' = "bytes=$Stored-"; 'If-Range' = $Result.eTag }
    }
    $request = New-Request $Connection 'GET' $Path $fields
    $headersRead = [Net.Http.HttpCompletionOption]::ResponseHeadersRead
    $cancel = New-Object Threading.CancellationTokenSource
    $response = $null
    try {
        $sending = $Connection.Client.SendAsync($request, $headersRead, $cancel.Token)
        $response = Wait-Task $sending $script:RequestSeconds "GET $Path"
        $status = [int] $response.StatusCode
        if ($status -eq 401) {
            $Connection.RenewAt = [datetime]::MinValue
            throw (New-Object IO.IOException -ArgumentList 'The token has expired.')
        }
        if ($status -notin 200, 206) {
            $text = Wait-Task ($response.Content.ReadAsStringAsync()) $script:RequestSeconds "GET $Path"
            throw "GET $Path failed: $((ConvertTo-Answer $response $text).Reason)"
        }
        $mode = [IO.FileMode]::Create
        if ($status -eq 206) {
            $range = $response.Content.Headers.ContentRange
            if ($null -eq $range -or $range.From -ne $Stored) {
                throw "GET $Path failed: the response does not continue the file at byte $Stored."
            }
            $mode = [IO.FileMode]::Append
        } else {
            $Stored = 0
        }
        Copy-Body $response $Part $mode $Stored $Result.size
    } finally {
        $cancel.Cancel()
        if ($null -ne $response) { $response.Dispose() }
        $request.Dispose()
    }
}

function Copy-Body($Response, [string] $Part, $Mode, [long] $Stored, [long] $Size) {
    $body = Wait-Task ($Response.Content.ReadAsStreamAsync()) $script:StallSeconds 'The download'
    $file = New-Object IO.FileStream -ArgumentList $Part, $Mode, ([IO.FileAccess]::Write)
    $activity = "Downloading $([IO.Path]::GetFileName($Part))"
    $shown = [Diagnostics.Stopwatch]::StartNew()
    try {
        $buffer = New-Object byte[] -ArgumentList 1048576
        while ($true) {
            $count = Wait-Task ($body.ReadAsync($buffer, 0, $buffer.Length)) $script:StallSeconds 'A read of the download'
            if ($count -eq 0) { break }
            $file.Write($buffer, 0, $count)
            $Stored += $count
            if ($shown.ElapsedMilliseconds -ge 500) {
                $percent = if ($Size) { [Math]::Min(100, [int] (100 * $Stored / $Size)) } else { 100 }
                Write-Progress -Activity $activity -Status "$Stored of $Size bytes" -PercentComplete $percent
                $shown.Restart()
            }
        }
    } finally {
        $file.Dispose()
        Write-Progress -Activity $activity -Completed
    }
}

Export-ModuleMember -Function @(
    'Connect-VB365Async'
    'Disconnect-VB365Async'
    'Get-VB365AsyncExport'
    'Receive-VB365AsyncExport'
    'Start-VB365AsyncExport'
    'Stop-VB365AsyncExport'
    'Wait-VB365AsyncExport'
)
