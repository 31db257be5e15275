module Ctkd.Fs.App.Program

[<EntryPoint>]
let main (args: string[]) : int =
    printfn "ctkd %s" (String.concat " " args)
    0
