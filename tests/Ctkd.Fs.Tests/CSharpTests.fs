/// The library as a C# program uses it: every method of `Facade` is a test.
module Ctkd.Fs.Tests.CSharpTests

open System
open System.Reflection
open Expecto
open Ctkd.Fs.CSharp

let tests =
    testList "CSharp" [
        for usage in typeof<Facade>.GetMethods(BindingFlags.Public ||| BindingFlags.Static) ->
            testCase (usage.Name.Replace('_', ' ')) (fun () -> usage.CreateDelegate<Action>().Invoke())
    ]
