// The build of Ctkd.Fs: `dotnet fsi build.fsx` lists the targets.
// A step takes what it needs as a value that only the step before it gives (a build needs HaveNative): the
// compiler keeps the order. Messages go to the error stream: the output of `run` is the program's alone.
#load "src/Ctkd.Fs/Errors.fs"

open System
open System.Diagnostics
open System.IO
open System.Runtime.InteropServices
open System.Security.Cryptography
open System.Text
open Ctkd.Fs

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

/// The exit code of a command and all that it printed, each line also given to `echo`.
let capture (echo: string -> unit) (command: string list) : int * string =
    let text = StringBuilder()

    let keep (line: string) =
        echo line
        text.AppendLine line |> ignore

    let receive (event: DataReceivedEventArgs) =
        event.Data |> Option.ofObj |> Option.iter (fun line -> lock text (fun () -> keep line))

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
    match capture ignore command with
    | 0, _ -> ()
    | code, text ->
        eprintf $"{text}"
        failed command code next

/// Runs a step of the build that takes its time: what it prints is shown.
let openly (next: string) (command: string list) : unit =
    let code, _ = capture (eprintfn "    %s") command
    if code <> 0 then failed command code next

/// Runs a command on this terminal.
let onTerminal (command: string list) : int =
    use child = start false command
    child.WaitForExit()
    child.ExitCode

let onPath (program: string) : bool =
    (variable "PATH" |> Option.defaultValue "").Split Path.PathSeparator
    |> Array.exists (fun folder -> File.Exists(Path.Combine(folder, program)))

[<DllImport("libc", SetLastError = true)>]
extern int execv(string path, string[] arguments)

/// Becomes the .NET program: process number, terminal and folder stay, so each signal reaches it exactly once,
/// and its exit code is the script's.
let become (program: string) (arguments: string list) : int =
    let dotnet = Environment.ProcessPath
    // This runtime's diagnostic socket bears the name that the next one's will have.
    Directory.GetFiles(Path.GetTempPath(), $"dotnet-diagnostic-{Environment.ProcessId}-*")
    |> Array.iter File.Delete

    execv (dotnet, [| "dotnet"; program; yield! arguments; null |]) |> ignore
    stop Engine $"cannot start {program}" dotnet (Marshal.GetLastPInvokeErrorMessage())

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

// ---- set-up: Debian packages, .NET tools, NuGet packages ----

type HaveEngine =
    /// Debian's libtorch, which CMake finds by itself.
    | Packaged of version: string
    /// A folder that has include/ and lib/: a pip PyTorch, or an unpacked libtorch.
    | Folder of path: string

type HavePyTorch = HavePyTorch
type HaveTools = HaveTools
type HavePackages = HavePackages

let version (package: string) : string option =
    match capture ignore [ "dpkg-query"; "-Wf${db:Status-Status} ${Version}"; package ] with
    | 0, text when text.StartsWith "installed " -> Some(text.Substring(10).Trim())
    | _ -> None

/// Installs the Debian packages that are missing, or says how to.
let debian (packages: string list) : unit =
    let hasDpkg = onPath "dpkg-query"
    let compilers = [ "cmake"; "g++"; "make" ] |> List.filter (onPath >> not)
    let missing = compilers @ List.filter (fun package -> not hasDpkg || (version package).IsNone) packages
    let names = String.concat " " missing
    let install = $"apt-get install -y --no-install-recommends {names}"

    if missing.IsEmpty then
        ()
    elif not (onPath "apt-get") then
        stop Missing $"needed, by Debian's names: {names}" "" "install these; LIBTORCH names a libtorch"
    elif not Environment.IsPrivilegedProcess then
        stop Missing $"Debian packages are missing: {names}" "" $"sudo apt-get update && sudo {install}"
    else
        say $"installing Debian packages: {names}"
        Environment.SetEnvironmentVariable("DEBIAN_FRONTEND", "noninteractive")

        for command in [ "apt-get update"; $"{install} -o DPkg::Lock::Timeout=300" ] do
            openly "mend what apt-get names above; is its package source reachable?" (words command)

/// The libtorch that LIBTORCH names, by its folder or by PyTorch's `torch.utils.cmake_prefix_path`.
let ownLibtorch (value: string) : string =
    [ "."; "../.."; "torch"; "libtorch" ]
    |> List.map (fun inner -> Path.GetFullPath(Path.Combine(value, inner)).TrimEnd '/')
    |> List.tryFind (fun folder -> File.Exists $"{folder}/lib/libtorch_cpu.so")
    |> Option.defaultWith (fun () ->
        let next = "set it to what this prints: python3 -c 'import torch; print(torch.__path__[0])'"
        stop Missing "LIBTORCH names no libtorch (no lib/libtorch_cpu.so)" value next
    )

let debianEngine = [ "libtorch-dev"; "libopenblas0-openmp"; "libdnnl-dev" ]

let engine () : HaveEngine =
    let own = variable "LIBTORCH" |> Option.map ownLibtorch
    debian (if own.IsSome then [] else debianEngine)
    own |> Option.map Folder |> Option.defaultWith (fun () -> Packaged (version "libtorch-dev").Value)

/// What some tests and the benchmark compare with. A libtorch of one's own comes with its own PyTorch.
let pyTorch () : HavePyTorch =
    if (variable "LIBTORCH").IsNone then debian (debianEngine @ [ "python3-torch" ])
    HavePyTorch

let noSource = "is the package source that `dotnet nuget list source` names reachable?"

let tools () : HaveTools =
    let home = Environment.GetFolderPath Environment.SpecialFolder.UserProfile
    let cache = variable "NUGET_PACKAGES" |> Option.defaultValue $"{home}/.nuget/packages"
    let isThere = [ "paket"; "fantomas" ] |> List.forall (fun tool -> Directory.Exists $"{cache}/{tool}")

    let inputs = [ File.ReadAllText(inRoot ".config/dotnet-tools.json") ]

    let restore () =
        say "restoring the .NET tools"
        quietly noSource (words "dotnet tool restore")

    unlessDone "artifacts/stamps/tools" isThere inputs restore
    HaveTools

/// The package source of this machine's NuGet configuration: no address stands in a committed file.
let feed () : string =
    let enabled (line: string) =
        if line.StartsWith 'E' then Some(line.Substring(line.IndexOf ' ').Trim()) else None

    let configured () = words "dotnet nuget list source --format short" |> capture ignore |> snd

    variable "NUGET_FEED"
    |> Option.orElseWith (fun () -> configured().Split '\n' |> Seq.tryPick enabled)
    |> Option.defaultWith (fun () ->
        stop Missing "no NuGet package source is enabled" "" "dotnet nuget add source ADDRESS"
    )

let projects: string list =
    [ "src"; "tests" ]
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
        quietly noSource (words "dotnet paket install")

    unlessDone "artifacts/stamps/packages" isThere (projects @ inputs) install
    // The build asks Paket again where an obj folder is gone.
    let remote = File.ReadLines(inRoot "paket.lock") |> Seq.find _.Contains("remote: ")
    Environment.SetEnvironmentVariable("NUGET_FEED", remote.Replace("remote: ", "").Trim())
    HavePackages

// ---- native, build, run ----

type HaveNative = HaveNative
type HaveBuilt = HaveBuilt

/// CUDA's headers; a pip PyTorch keeps them beside itself.
let cudaInclude (torch: string) : string option =
    let beside = inRoot $"{torch}/../nvidia"
    let folders = if Directory.Exists beside then List.ofArray (Directory.GetDirectories beside) else []

    folders @ Option.toList (variable "CUDA_HOME") @ [ "/usr/local/cuda" ]
    |> List.map (fun folder -> Path.GetFullPath $"{folder}/include")
    |> List.tryFind (fun folder -> File.Exists $"{folder}/cuda_runtime_api.h")

let native (engine: HaveEngine) : HaveNative =
    let name, options =
        match engine with
        | Packaged version -> $"Debian's libtorch {version}", []
        | Folder path ->
            let cuda = cudaInclude path |> Option.map (fun folder -> $"-DCTKD_CUDA_INCLUDE={folder}")
            let built = File.GetLastWriteTimeUtc $"{path}/lib/libtorch_cpu.so"
            $"{path} of {built:u}", $"-DCTKD_TORCH_ROOT={path}" :: Option.toList cuda

    let libtorch = root :: name :: options

    let sources =
        [ "*.cpp"; "*.h"; "CMakeLists.txt" ] |> List.collect (files "native") |> List.map File.ReadAllText

    let isBuilt = File.Exists(inRoot "native/build/libctkd_torch.so")

    // CMake finds by itself what a changed source needs, but its cache is of one libtorch in one place.
    let clear () =
        if Directory.Exists(inRoot "native/build") then
            Directory.Delete(inRoot "native/build", true)

    let compile () =
        say $"building native/ against {name}"
        let next = "does this libtorch suit CMake and the compiler? LIBTORCH names another one"
        quietly next (words "cmake -S native -B native/build -DCMAKE_BUILD_TYPE=Release" @ options)
        openly next (words $"cmake --build native/build --parallel {Environment.ProcessorCount}")

    unlessDone "native/build/libtorch.stamp" true libtorch clear
    unlessDone "native/build/sources.stamp" isBuilt (libtorch @ sources) compile
    HaveNative

let everything = "Ctkd.Fs.sln"
let app = "src/Ctkd.Fs.App"

let build (target: string) (HavePackages: HavePackages) (HaveNative: HaveNative) : HaveBuilt =
    say $"building {target}"
    // Without build servers, which would outlive the build and hold its output open.
    let options = words "-c Release --nologo -v quiet -clp:ErrorsOnly --disable-build-servers"
    quietly "mend the errors above" (words $"dotnet build {target}" @ options)
    HaveBuilt

let built (target: string) : HaveBuilt =
    let engine = engine ()
    build target (tools () |> packages) (native engine)

let runApp (HaveBuilt: HaveBuilt) (arguments: string list) : int =
    become (inRoot $"{app}/bin/Release/net10.0/ctkd.dll") arguments

let bench (HavePyTorch: HavePyTorch) (built: HaveBuilt) (arguments: string list) : int =
    runApp built ("bench" :: arguments)

// ---- test, scripts, format, pack ----

let suite = "tests/Ctkd.Fs.Tests"

/// Becomes Expecto's runner, which takes its own options; `--peer` selects the comparisons with PyTorch.
let test (HaveBuilt: HaveBuilt) (arguments: string list) : int =
    become (inRoot $"{suite}/bin/Release/net10.0/Ctkd.Fs.Tests.dll") arguments

let peer (HavePyTorch: HavePyTorch) (built: HaveBuilt) (arguments: string list) : int =
    test built ("--peer" :: arguments)

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
let publish (HavePackages: HavePackages) (HaveNative: HaveNative) : int =
    let architecture = $"{RuntimeInformation.OSArchitecture}".ToLowerInvariant()
    let where = words $"-r linux-{architecture} --self-contained false -o artifacts/ctkd"
    let options = words "-c Release --nologo -v quiet -clp:ErrorsOnly --disable-build-servers"
    quietly noSource ([ "dotnet"; "publish"; app ] @ options @ where)
    printfn "%s" (inRoot "artifacts/ctkd/ctkd")
    0

let pack (HaveBuilt: HaveBuilt) : int =
    let command = $"dotnet pack {everything} -c Release --no-build --nologo -v quiet -o artifacts/packages"
    quietly "mend the errors above" (words command)
    files "artifacts/packages" "*.nupkg" |> List.iter (printfn "%s")
    0

// ---- targets ----

let targets = [
    "deps", "", "installs what is missing: Debian packages, .NET tools, NuGet packages"
    "native", "", "builds native/, the C ABI over libtorch; LIBTORCH names another libtorch"
    "build", "", "builds everything"
    "test", "[NAME]", "runs the tests, or those with NAME in their full name; then options of Expecto"
    "test", "--peer", "runs the comparisons with PyTorch, which it installs; also with NAME and options"
    "run", "ARGS", "runs `ctkd ARGS`; for --help, which F# Interactive takes for itself: run -- --help"
    "scripts", "", "runs every script in scripts/"
    "bench", "ARGS", "runs the benchmarks, side by side with PyTorch"
    "format", "[--check]", "formats the F# sources, or only checks them"
    "publish", "", "makes artifacts/ctkd/ctkd, the program compiled ahead of time: it starts faster"
    "pack", "", "makes NuGet packages of the libraries in artifacts/packages"
]

let help () : int =
    printfn "dotnet fsi build.fsx TARGET: does first what the target needs, and skips what is done.\n"
    targets |> List.iter (fun (name, arguments, text) -> printfn "  %-18s%s" $"{name} {arguments}" text)
    0

let main (arguments: string list) : int =
    match arguments with
    | []
    | [ "help" ] -> help ()
    | [ "deps" ] ->
        let HavePyTorch, HavePackages = pyTorch (), tools () |> packages
        0
    | [ "native" ] ->
        let HaveNative = engine () |> native
        0
    | [ "build" ] ->
        let HaveBuilt = built everything
        0
    | "test" :: "--peer" :: rest -> peer (pyTorch ()) (built everything) rest
    | "test" :: rest -> test (built everything) rest
    | "run" :: rest -> runApp (built app) rest
    | [ "scripts" ] -> built everything |> scripts
    | "bench" :: rest -> bench (pyTorch ()) (built app) rest
    | [ "format" ] -> format (tools ()) false
    | [ "format"; "--check" ] -> format (tools ()) true
    | [ "publish" ] ->
        let engine = engine ()
        publish (tools () |> packages) (native engine)
    | [ "pack" ] -> built everything |> pack
    | name :: rest ->
        let names = targets |> List.map (fun (name, _, _) -> name)
        let unexpected = String.concat " " rest

        if List.contains name names then
            stop Usage $"{name} does not take: {unexpected}" "" "dotnet fsi build.fsx help"
        else
            Error.unknown "target" names name |> Error.raise

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
