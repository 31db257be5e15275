// The build of Ctkd.Fs: `dotnet fsi build.fsx` lists the targets.
// A step takes what it needs as a value that only the step before it gives (a build needs HavePackages): the
// compiler keeps the order. Messages go to the error stream: the output of `run` is the program's alone.
#load "src/Ctkd.Fs/Core/Errors.fs"
#load "tests/Ctkd.Fs.Tests/Build/OneAtATime.fs"
#load "tests/Ctkd.Fs.Tests/Build/Packages.fs"
#load "tests/Ctkd.Fs.Tests/Docs/Markdown.fs"
#load "tests/Ctkd.Fs.Tests/Docs/GeneratedPages.fs"
#load "tests/Ctkd.Fs.Tests/Docs/Site.fs"

open System
open System.Diagnostics
open System.IO
open System.Runtime.InteropServices
open System.Security.Cryptography
open System.Text
open Ctkd.Fs
open Ctkd.Fs.Tests

let root = __SOURCE_DIRECTORY__
let inRoot (path: string) = Path.Combine(root, path)
let stop kind what where next = Error.create kind what where next |> Error.raise
let say (text: string) = eprintfn $"build.fsx: {text}"

let variable (name: string) : string option =
    match Environment.GetEnvironmentVariable name with
    | null
    | "" -> None
    | value -> Some value

let files (folder: string) (pattern: string) : string list =
    if not (Directory.Exists(inRoot folder)) then
        []
    else
        Directory.GetFiles(inRoot folder, pattern) |> Array.sort |> List.ofArray

// ---- processes ----

let words (command: string) : string list = command.Split ' ' |> List.ofArray

let start (redirect: bool) (command: string list) : Process =
    let info = ProcessStartInfo(command.Head, command.Tail, WorkingDirectory = root)
    info.RedirectStandardOutput <- redirect
    info.RedirectStandardError <- redirect

    try
        Process.Start info
    with :? ComponentModel.Win32Exception as failure ->
        stop Missing $"cannot start '{info.FileName}'" failure.Message "dotnet fsi build.fsx deps"

/// The exit code of a command and all that it printed.
let capture (command: string list) : int * string =
    let text = StringBuilder()

    let receive (event: DataReceivedEventArgs) =
        event.Data |> Option.ofObj |> Option.iter (fun line -> lock text (fun () -> text.AppendLine line |> ignore))

    use child = start true command
    child.OutputDataReceived.Add receive
    child.ErrorDataReceived.Add receive
    child.BeginOutputReadLine()
    child.BeginErrorReadLine()
    child.WaitForExit()
    child.ExitCode, text.ToString()

let failed (command: string list) (code: int) (next: string) =
    let line = String.concat " " command
    stop Engine $"exit code {code} from: {line}" root next

/// Runs a step of the build whose output matters only when it fails.
let quietly (next: string) (command: string list) : unit =
    match capture command with
    | 0, _ -> ()
    | code, text ->
        eprintf $"{text}"
        failed command code next

/// Runs a command on this terminal.
let onTerminal (command: string list) : int =
    use child = start false command
    child.WaitForExit()
    child.ExitCode

/// Whether a program is there and content.
let answers (command: string list) : bool =
    try
        let info = ProcessStartInfo(command.Head, command.Tail, RedirectStandardOutput = true)
        use child = Process.Start info
        child.StandardOutput.ReadToEnd() |> ignore
        child.WaitForExit()
        child.ExitCode = 0
    with :? ComponentModel.Win32Exception ->
        false

[<DllImport("libc", SetLastError = true)>]
extern int execv(string path, string[] arguments)

/// Becomes the .NET program: process number, terminal and folder stay, so each signal reaches it exactly once,
/// and its exit code is the script's.
let replaceBy (dotnet: string) (program: string) (arguments: string list) : int =
    // This runtime's diagnostic socket bears the name that the next one's will have.
    Directory.GetFiles(Path.GetTempPath(), $"dotnet-diagnostic-{Environment.ProcessId}-*")
    |> Array.iter File.Delete

    execv (dotnet, [| "dotnet"; program; yield! arguments; null |]) |> ignore
    stop Engine $"cannot start {program}" dotnet (Marshal.GetLastPInvokeErrorMessage())

let become (program: string) (arguments: string list) : int =
    let dotnet = Environment.ProcessPath

    if OperatingSystem.IsWindows() then
        onTerminal (dotnet :: program :: arguments)
    else
        replaceBy dotnet program arguments

/// Skips an action whose inputs are those of the last time that it succeeded and whose result is still there.
let unlessDone (stamp: string) (isThere: bool) (inputs: string list) (action: unit -> unit) : unit =
    let stamp = FileInfo(inRoot stamp)
    let text = String.concat "\n" inputs
    let inputs = text |> Encoding.UTF8.GetBytes |> SHA256.HashData |> Convert.ToHexString

    if not isThere || not stamp.Exists || File.ReadAllText stamp.FullName <> inputs then
        if stamp.Exists then stamp.Delete()
        action ()
        stamp.Directory.Create()
        File.WriteAllText(stamp.FullName, inputs)

// ---- set-up: .NET tools, NuGet packages ----

type HaveTools = HaveTools
type HavePackages = HavePackages

/// Says which libtorch the programs get: a package's, or LIBTORCH's alone. MSBuild takes properties from the
/// environment, so that Paket, `build` and `publish` all read it there.
let choose (device: string) : unit =
    let devices = [ "cpu"; "cuda"; "none" ]

    if not (List.contains device devices) then
        Error.unknown "device" devices device |> Error.raise

    Environment.SetEnvironmentVariable("Device", device)

/// Asks MSBuild for the ResNet-18 of the tour with photographs, which nothing else needs.
let chooseBackbone (target: string) (arguments: string list) : unit =
    let isGiven = arguments |> List.exists _.StartsWith("--backbone")

    if target = "run" && List.contains "quickstart" arguments && List.contains "--photos" arguments && not isGiven then
        Environment.SetEnvironmentVariable("Backbone", "resnet18")

/// The words after a target without those that choose the libtorch.
let chosen (target: string) (arguments: string list) : string list =
    match target, arguments with
    | _, "--cuda" :: rest ->
        choose "cuda"
        rest
    | "publish", "--device" :: device :: rest ->
        choose device
        rest
    | _ ->
        choose (if (variable "LIBTORCH").IsSome then "none" else "cpu")
        arguments

let suggestCuda () : unit =
    if variable "Device" = Some "cpu" && answers [ "nvidia-smi"; "-L" ] then
        say "this machine has a CUDA device: --cuda after the target uses it"

let noSource () =
    if variable "Device" = Some "cuda" then
        "the packages with CUDA are not to be had? set LIBTORCH to the torch folder of a PyTorch 2.10 with CUDA"
    else
        "is the package source that `dotnet nuget list source` names reachable?"

/// The folder of unpacked packages that all builds of this user share.
let cache: string =
    let home = Environment.GetFolderPath Environment.SpecialFolder.UserProfile
    variable "NUGET_PACKAGES" |> Option.defaultValue $"{home}/.nuget/packages"

/// Runs a step that unpacks packages into the cache.
let aloneWithPackages (step: unit -> unit) : unit =
    Directory.CreateDirectory cache |> ignore
    OneAtATime.run say (Path.Combine(cache, "ctkd.lock")) step

let tools () : HaveTools =
    let isThere =
        [ "paket"; "fantomas"; "fsdocs-tool" ] |> List.forall (fun tool -> Directory.Exists $"{cache}/{tool}")

    let inputs = [ File.ReadAllText(inRoot ".config/dotnet-tools.json") ]

    let restore () =
        say "restoring the .NET tools"
        aloneWithPackages (fun () -> quietly (noSource ()) (words "dotnet tool restore"))

    unlessDone "artifacts/stamps/tools" isThere inputs restore
    HaveTools

/// The package source of this machine's NuGet configuration: no address stands in a committed file.
let feed () : string =
    let enabled (line: string) = if line.StartsWith 'E' then Some(line.Substring(line.IndexOf ' ').Trim()) else None

    let configured () = words "dotnet nuget list source --format short" |> capture |> snd

    variable "NUGET_FEED"
    |> Option.orElseWith (fun () -> configured().Split '\n' |> Seq.tryPick enabled)
    |> Option.defaultWith (fun () ->
        stop Missing "no NuGet package source is enabled" "" "dotnet nuget add source ADDRESS"
    )

let projects: string list =
    [ "src"; "tests"; "bench" ]
    |> List.collect (inRoot >> Directory.GetDirectories >> Array.sort >> List.ofArray)
    |> List.collect (fun folder -> files folder "*.?sproj")

let packages (HaveTools: HaveTools) : HavePackages =
    let references =
        projects |> List.collect (fun project -> files (Path.GetDirectoryName project) "paket.references")

    let inputs = inRoot "paket.dependencies" :: references |> List.map File.ReadAllText
    let isThere = [ "paket.lock"; ".paket/Paket.Restore.targets" ] |> List.forall (inRoot >> File.Exists)

    let install () =
        say "installing the NuGet packages"
        Environment.SetEnvironmentVariable("NUGET_FEED", feed ())
        // Made anew: the lock names the package source, and the exact versions stand in paket.dependencies.
        File.Delete(inRoot "paket.lock")
        aloneWithPackages (fun () -> quietly (noSource ()) (words "dotnet paket install"))

    unlessDone "artifacts/stamps/packages" isThere (projects @ inputs) install
    // The build asks Paket again where an obj folder is gone.
    let remote = File.ReadLines(inRoot "paket.lock") |> Seq.find _.Contains("remote: ")
    Environment.SetEnvironmentVariable("NUGET_FEED", remote.Replace("remote: ", "").Trim())
    HavePackages

// ---- build, run ----

type HaveBuilt = HaveBuilt

let everything = "Ctkd.Fs.sln"
let app = "src/Ctkd.Fs.App"

// Without build servers, which would outlive the build and hold its output open.
let quiet = words "-c Release --nologo -v quiet -clp:ErrorsOnly --disable-build-servers"

let build (target: string) (HavePackages: HavePackages) : HaveBuilt =
    suggestCuda ()
    say $"building {target}"
    let isFetching = variable "Device" = Some "cuda" || (variable "Backbone").IsSome
    let next = if isFetching then noSource () else "mend the errors above"
    quietly next (words $"dotnet build {target}" @ quiet)
    HaveBuilt

let built (target: string) : HaveBuilt = tools () |> packages |> build target

let runApp (HaveBuilt: HaveBuilt) (arguments: string list) : int =
    become (inRoot $"{app}/bin/Release/net10.0/ctkd.dll") arguments

// ---- test, scripts, format, pack ----

let suite = "tests/Ctkd.Fs.Tests"

/// Becomes Expecto's runner, which takes its own options; `--peer` selects the comparisons with PyTorch, and pages in Chromium.
let test (HaveBuilt: HaveBuilt) (arguments: string list) : int =
    become (inRoot $"{suite}/bin/Release/net10.0/Ctkd.Fs.Tests.dll") arguments

let scripts (HaveBuilt: HaveBuilt) : int =
    let run (script: string) =
        let name = Path.GetRelativePath(root, script)
        say $"running {name}"
        let code = onTerminal [ "dotnet"; "fsi"; script ]

        if code <> 0 then
            stop Engine $"a script failed with exit code {code}" name $"dotnet fsi {name}"

    files "scripts" "*.fsx"
    |> List.filter (fun file -> not (Path.GetFileName(file).StartsWith '_'))
    |> List.iter run

    0

let format (HaveTools: HaveTools) (check: bool) : int =
    let paths = [ "src"; "tests"; "scripts"; "bench" ] |> List.filter (inRoot >> Directory.Exists)
    let command = if check then "dotnet fantomas check build.fsx" else "dotnet fantomas build.fsx"

    match onTerminal (words command @ paths) with
    | 0 -> 0
    | code when check -> failed (words command) code "dotnet fsi build.fsx format"
    | code -> failed (words command) code "mend the syntax errors above"

/// The program in a folder of its own, compiled ahead of time (ReadyToRun): it starts in less time than what `build` makes.
let publish (HavePackages: HavePackages) : int =
    let where = [ "-r"; RuntimeInformation.RuntimeIdentifier; "--self-contained"; "false"; "-o"; "artifacts/ctkd" ]

    quietly (noSource ()) ([ "dotnet"; "publish"; app ] @ quiet @ where)

    printfn "%s" (inRoot (if OperatingSystem.IsWindows() then "artifacts/ctkd/ctkd.exe" else "artifacts/ctkd/ctkd"))

    0

let pack (HaveBuilt: HaveBuilt) : int =
    let command = $"dotnet pack {everything} -c Release --no-build --nologo -v quiet -o artifacts/packages"
    quietly "mend the errors above" (words command)
    files "artifacts/packages" "*.nupkg" |> List.iter (printfn "%s")
    0

/// Tries the packages in F# Interactive, from an empty folder.
let checkPackages () : int =
    say "running a script that takes the packages"
    Packages.check (quietly "mend the errors above") (inRoot "artifacts/packages")
    0

// ---- docs ----

/// Makes the pages that the program itself describes, and the site.
let docs (HaveBuilt: HaveBuilt) : int =
    let ctkd (arguments: string list) = "dotnet" :: inRoot $"{app}/bin/Release/net10.0/ctkd.dll" :: arguments

    match Site.make root (ctkd >> capture) capture with
    | Ok page ->
        printfn $"{page}"
        0
    | Error problems ->
        problems |> List.iter (eprintfn "  %s")
        stop Damaged $"the documentation has {problems.Length} mistakes" "" "mend those above"

// ---- targets ----

let targets = [
    "deps", "", "restores the .NET tools and the NuGet packages"
    "build", "", "builds everything"
    "test", "[NAME]", "runs the tests, or those with NAME in their full name; then options of Expecto"
    "test", "--peer", "runs the comparisons with PyTorch, and pages in Chromium; also with NAME and options"
    "run", "ARGS", "runs `ctkd ARGS`; for --help, which F# Interactive takes for itself: run -- --help"
    "scripts", "", "runs every script in scripts/"
    "bench", "ARGS", "runs the benchmarks, side by side with PyTorch where python3 has it"
    "format", "[--check]", "formats the F# sources, or only checks them"
    "publish", "[--device D]", "makes artifacts/ctkd/ctkd, the program compiled ahead of time: it starts faster"
    "docs", "", "makes the site with its API pages in artifacts/docs, and checks every link"
    "pack", "[--check]", "makes NuGet packages of the libraries in artifacts/packages, and tries them in F# Interactive"
]

let usage () : int =
    printfn "dotnet fsi build.fsx TARGET: does first what the target needs, and skips what is done.\n"
    targets |> List.iter (fun (name, arguments, text) -> printfn "  %-23s%s" $"{name} {arguments}" text)

    printfn
        "\nTARGET --cuda takes the packages with CUDA; D is cpu, cuda or none. With LIBTORCH=FOLDER no package is needed."

    0

let perform (target: string) (arguments: string list) : int =
    match target, arguments with
    | "help", [] -> usage ()
    | "deps", [] ->
        let HavePackages = tools () |> packages
        0
    | "build", [] ->
        let HaveBuilt = built everything
        0
    | "test", rest -> test (built everything) rest
    | "run", rest -> runApp (built app) rest
    | "scripts", [] -> built everything |> scripts
    | "bench", rest ->
        let HaveBuilt = built "bench/TorchSharp"
        runApp (built app) ("bench" :: rest)
    | "format", [] -> format (tools ()) false
    | "format", [ "--check" ] -> format (tools ()) true
    | "publish", [] -> tools () |> packages |> publish
    | "docs", [] -> built app |> docs
    | "pack", [] -> built everything |> pack
    | "pack", [ "--check" ] -> pack (built everything) + checkPackages ()
    | name, rest ->
        let names = targets |> List.map (fun (name, _, _) -> name)
        let unexpected = String.concat " " rest

        if List.contains name names then
            stop Usage $"{name} does not take: {unexpected}" "" "dotnet fsi build.fsx help"
        else
            Error.unknown "target" names name |> Error.raise

let main (arguments: string list) : int =
    match arguments with
    | [] -> usage ()
    | target :: rest ->
        chooseBackbone target rest
        chosen target rest |> perform target

try
    // Not fsi.CommandLineArgs, which rewrites some arguments.
    let isScript (text: string) = Path.GetFileName text = __SOURCE_FILE__
    let arguments = Environment.GetCommandLineArgs() |> Seq.skipWhile (isScript >> not) |> Seq.tail
    arguments |> List.ofSeq |> main |> exit
with
| CtkdException error ->
    eprintfn $"error: {error}"
    exit (if error.Kind = Usage then 2 else 1)
| :? IOException
| :? UnauthorizedAccessException as failure ->
    eprintfn $"error: {failure.Message}\n  next: may you write in {root}, and is its disk full?"
    exit 1
