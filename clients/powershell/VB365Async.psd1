@{
    RootModule           = 'VB365Async.psm1'
    ModuleVersion        = '0.1.0'
    GUID                 = 'b6a2d5f0-3f0e-4f6b-9d0a-6a1f2c0a7e11'
    Author               = 'The vb365-async-proxy authors'
    Description          = 'Asynchronous exports from Veeam Backup for Microsoft 365 through vb365-async-proxy.'
    PowerShellVersion    = '5.1'
    CompatiblePSEditions = @('Desktop', 'Core')
    FunctionsToExport    = @(
        'Connect-VB365Async'
        'Disconnect-VB365Async'
        'Get-VB365AsyncExport'
        'Receive-VB365AsyncExport'
        'Start-VB365AsyncExport'
        'Stop-VB365AsyncExport'
        'Wait-VB365AsyncExport'
    )
    CmdletsToExport      = @()
    VariablesToExport    = @()
    AliasesToExport      = @()
    PrivateData          = @{ PSData = @{ LicenseUri = 'https://www.apache.org/licenses/LICENSE-2.0' } }
}
